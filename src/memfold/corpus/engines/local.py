"""Folds the files of a corpus in this process, one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from memfold.core.errors import ConfigError
from memfold.corpus.work import Job, Order, Outcome, Worker


class LocalEngine:
    """One worker, which is this process."""

    def __init__(self, workers: int | None) -> None:
        if workers not in (None, 1):
            raise ConfigError(f"--workers {workers} is not possible in one process; give --engine ray, or leave it out")

    def run(self, order: Order, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Yield the outcomes in the order of the jobs.

        Raises:
            ConfigError, CheckpointError, DataError: if the model cannot be loaded.
        """
        worker = Worker(order)
        failure = worker.load()
        if failure is not None:
            raise failure.exception()
        yield from map(worker.fold, jobs)
