"""Folds the files of a corpus with Ray actors: one for each GPU, or a number of them on the CPUs.

Each actor loads the model once and folds one file at a time.  If an actor ends while it folds a file, because it was
killed or lost its machine, the file goes back to the queue and another actor continues it.  Ray passes names of files;
their contents never go through it, so all machines need the same paths, on a file system that they share.

Left out: files that are divided among workers, and the restarts and retries of Ray itself, which do not say which file
ends its worker again and again.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from memfold.backbone.device import check_device
from memfold.backbone.named.table import NAMED
from memfold.core.config import require
from memfold.core.errors import CallError, ConfigError
from memfold.corpus.work import Job, Order, Outcome, Worker

ADDRESS = "RAY_ADDRESS"  # the variable of Ray with the cluster to join; without it, Ray is started on this machine
OBJECTS = 80_000_000  # bytes of shared memory that Ray reserves on this machine; little more than its minimum
ATTEMPTS = 3  # workers that may end over one file, or one after another while they load the model
CUDA = "cuda"


class RayEngine:
    """Workers in processes of their own, on this machine or on those of a Ray cluster."""

    def __init__(self, workers: int | None) -> None:
        require(workers is None or workers > 0, "--workers", workers, "1 or more")
        self._workers = workers
        self._ray = _package()

    def run(self, order: Order, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Yield the outcomes as files are done.

        Raises:
            ConfigError: for a device that Ray does not have, or more workers than it has room for.
            ConfigError, CheckpointError, DataError: if the model cannot be loaded.
            CallError: if workers end before they have loaded it.
        """
        on_gpus = order.device.startswith(CUDA)
        require(not on_gpus or order.device == CUDA, "--device", order.device, "cuda; Ray chooses the GPU of a worker")
        if not on_gpus:
            check_device(order.device)
        if order.model not in NAMED and os.path.isdir(order.model):
            order = replace(order, model=os.path.abspath(order.model))
        with self._started():
            count, cpus = self._room("GPU" if on_gpus else "CPU")
            options = {"num_cpus": 1 if on_gpus else cpus, "num_gpus": int(on_gpus), "scheduling_strategy": "SPREAD"}
            actor = self._ray.remote(**options)(Worker)
            yield from Crew(self._ray, actor, order).outcomes(jobs, count)

    @contextmanager
    def _started(self) -> Iterator[None]:
        """Start Ray on this machine or join its cluster, unless the program has done so."""
        if self._ray.is_initialized():
            yield
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what a user runs is reported to nobody
        address = os.environ.get(ADDRESS)
        where: dict[str, Any] = {"address": address}
        if not address:
            where = {"address": "local", "object_store_memory": OBJECTS, "include_dashboard": False}
        try:
            self._ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(f"Ray does not start: {error}; check {ADDRESS}") from None
        try:
            yield
        finally:
            self._ray.shutdown()

    def _room(self, resource: str) -> tuple[int, int]:
        """Return the number of workers, and the CPUs of each if they compute on CPUs.

        By default, there is a worker for each GPU, or for each machine.  The CPUs of a machine are divided among its
        workers; Ray sets the number of threads of an actor to that of its CPUs.
        """
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        found = [int(node[resource]) for node in nodes if node.get(resource, 0) >= 1]
        if not found:
            raise ConfigError(f"Ray has no {resource}; choose another --device, or another cluster in {ADDRESS}")
        count = self._workers or (sum(found) if resource == "GPU" else len(found))
        require(count <= sum(found), "--workers", count, f"1 to {sum(found)}, the {resource}s that Ray has")
        of_one_machine = -(-count // len(found))
        return count, max(1, min(found) // of_one_machine)


class Crew:
    """Actors that fold jobs, and what each of them does."""

    def __init__(self, ray: Any, actor: Any, order: Order) -> None:
        self._ray, self._actor, self._order = ray, actor, order
        self._queue: deque[Job] = deque()
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, Job | None]] = {}  # the reference of a result -> actor, job or None (loading)
        self._ended: Counter[Job | None] = Counter()  # workers that ended over a job; None: over loading, in a row

    def outcomes(self, jobs: Sequence[Job], count: int) -> Iterator[Outcome]:
        """Yield the outcomes of jobs that up to `count` actors fold; at the end, all actors are killed.

        An actor that is left to itself ends its interpreter first, which takes long once PyTorch is loaded.
        """
        self._queue.extend(jobs)
        try:
            for _ in range(min(count, len(jobs))):
                self._start()
            while self._queue or any(job is not None for _, job in self._busy.values()):
                yield from self._step()
        finally:
            for worker in (*self._idle, *(worker for worker, _ in self._busy.values())):
                self._ray.kill(worker)

    def _step(self) -> Iterator[Outcome]:
        """Wait until one worker is done, and give it the next job."""
        (done,), _ = self._ray.wait(list(self._busy), num_returns=1)
        worker, job = self._busy.pop(done)
        try:
            result = self._ray.get(done)
        except self._ray.exceptions.RayActorError as error:
            yield from self._replace(job, error)
            return
        if job is None and result is not None:
            self._idle.append(worker)
            raise result.exception()
        if job is None:
            self._ended[None] = 0
        self._next(worker)
        if job is not None:
            yield result

    def _start(self) -> None:
        """Start an actor; it has work when the model is loaded."""
        worker = self._actor.remote(self._order)
        self._busy[worker.load.remote()] = worker, None

    def _next(self, worker: Any) -> None:
        """Give a worker the next job, if there is one."""
        if not self._queue:
            self._idle.append(worker)
            return
        job = self._queue.popleft()
        self._busy[worker.fold.remote(job, self._ended[job] > 0)] = worker, job

    def _replace(self, job: Job | None, error: Exception) -> Iterator[Outcome]:
        """Put the job of a worker that ended back into the queue, and let another worker take its place.

        Yields the outcome of a job over which too many have ended.

        Raises:
            CallError: if too many have ended while they loaded the model.
        """
        self._ended[job] += 1
        ended = self._ended[job] >= ATTEMPTS
        if job is None and ended:
            why = str(error).strip().splitlines()[-1]
            raise CallError("worker", f"{ATTEMPTS} workers ended before they had loaded the model ({why})")
        if job is not None and ended:
            yield job.failed(f"{job.source}: {ATTEMPTS} workers ended while they folded it; is there enough memory?")
        elif job is not None:
            self._queue.append(job)
        if self._queue and self._idle:
            self._next(self._idle.pop())
        elif self._queue:
            self._start()


def _package() -> Any:
    try:
        import ray
    except ImportError:
        raise ConfigError("engine 'ray' needs Ray; pip install 'memfold[ray]'") from None
    return ray
