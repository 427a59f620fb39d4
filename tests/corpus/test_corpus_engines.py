"""The engines: the memories are the same wherever they are folded, and a worker that ends loses nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
from stand_in_ray import RayPackage, StandInRay, end_this_worker

from memfold.core.errors import CallError, ConfigError
from memfold.corpus import work
from memfold.corpus.engine import open_engine
from memfold.corpus.engines import ray as ray_engine
from memfold.corpus.engines.ray import OBJECTS, RayEngine
from memfold.corpus.work import FAILED, FOLDED, Job, Order, Outcome, Worker, find_jobs

Write = Callable[[str, int], Path]
POLL = 0.002  # seconds


def run(engine: str, order: Order, folder: Path, workers: int | None = None) -> list[Outcome]:
    """Fold the folder `texts` beside a folder into it."""
    jobs, _ = find_jobs([folder.parent / "texts"], folder)
    return list(open_engine(engine, workers).run(order, jobs))


def memories(folder: Path) -> dict[str, bytes]:
    """The bytes of all files of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("ray_package")
def test_two_hundred_files_have_the_same_memories(order: Order, write: Write, tmp_path: Path) -> None:
    for number in range(200):
        write(f"{number % 7}/{number}.txt", 1 + number % 3)
    (tmp_path / "texts" / "3" / "broken.txt").write_bytes(b"a\0b")
    plain = run("local", order, tmp_path / "plain")
    spread = run("ray", order, tmp_path / "spread", 2)
    assert sorted(spread, key=lambda outcome: outcome.source) == sorted(plain, key=lambda outcome: outcome.source)
    assert [outcome.source for outcome in plain if outcome.state != FOLDED] == ["3/broken.txt"]
    assert len(plain) == 201
    expected = memories(tmp_path / "plain")
    assert memories(tmp_path / "spread") == expected
    assert len(expected) == 200
    assert "5/12.txt.fold" in expected


def test_a_killed_worker_loses_nothing(ray_package: RayPackage, order: Order, write: Write, tmp_path: Path) -> None:
    for number in range(5):
        write(f"{number}.txt", 700)
    plain = run("local", order, tmp_path / "plain")
    spread, interrupted = tmp_path / "spread", []

    def kill() -> None:
        while not (begun := [path for path in spread.glob("*.partial/rows") if path.stat().st_size]):
            time.sleep(POLL)
        ray_package.kill_all()
        interrupted.extend(path.parent for path in begun if path.exists())

    killer = Thread(target=kill)
    killer.start()
    outcomes = run("ray", order, spread, 2)
    killer.join()
    assert interrupted, "a file was in the middle"
    assert {outcome.source: outcome.state for outcome in outcomes} == {f"{number}.txt": FOLDED for number in range(5)}
    assert memories(spread) == memories(tmp_path / "plain")
    begun_again, whole = (sum(outcome.tokens for outcome in each) for each in (outcomes, plain))
    assert begun_again < whole, "what was written is continued, not folded again"


def test_a_file_that_ends_every_worker_stops_no_other(
    stand_in: StandInRay, order: Order, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.txt", "bad.txt", "c.txt", "d.txt"):
        write(name, 3)
    plain = work.open_document

    def opened(path: Path, source: str) -> object:
        if source == "bad.txt":
            end_this_worker()
        return plain(path, source)

    monkeypatch.setattr(work, "open_document", opened)
    outcomes = {outcome.source: outcome for outcome in run("ray", order, tmp_path / "spread", 2)}
    assert len(outcomes) == 4
    bad = outcomes.pop("bad.txt")
    assert (bad.state, bad.problem) == (
        FAILED,
        "bad.txt: 3 workers ended while they folded it; is there enough memory?",
    )
    assert {outcome.state for outcome in outcomes.values()} == {FOLDED}
    assert len(stand_in.handles) <= 2 + ray_engine.ATTEMPTS


def test_workers_that_end_while_they_load_the_model_end_the_run(
    stand_in: StandInRay, order: Order, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.txt", 3)
    monkeypatch.setattr(Worker, "load", end_this_worker)
    with pytest.raises(CallError, match=r"3 workers ended before they had loaded the model \(Its process was killed"):
        run("ray", order, tmp_path / "spread", 2)
    assert len(stand_in.handles) == 3


@pytest.mark.usefixtures("ray_package")
def test_a_model_that_cannot_be_loaded_ends_the_run(order: Order, write: Write, tmp_path: Path) -> None:
    write("a.txt", 3)
    for engine in ("local", "ray"):
        with pytest.raises(ConfigError, match=r"ratio 5 is not one that model 'small' was trained at; allowed: 4, 16"):
            run(engine, replace(order, ratio=5), tmp_path / "spread")
        with pytest.raises(ConfigError, match=r"is the text itself, so the text must be stored; leave --no-text"):
            run(engine, replace(order, system="full", settings={}, keep_text=False), tmp_path / "spread")
    assert not (tmp_path / "spread").exists()


def test_a_lock_that_outlives_its_worker_is_waited_for(
    order: Order, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, memory = write("a.txt", 3), tmp_path / "a.fold"
    job, worker, held = Job(path, "a.txt", memory), Worker(order), work.WriteLock(memory)
    assert worker.load() is None
    first = worker.fold(job)
    assert (first.state, first.problem) == (
        FAILED,
        f"a.txt: another process is writing {memory}; wait for it or choose another name",
    )
    monkeypatch.setattr(work.time, "sleep", lambda _: held.release())
    assert worker.fold(job, again=True).state == FOLDED


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError) as caught:
        open_engine("ray")
    assert str(caught.value) == "engine 'ray' needs Ray; pip install 'memfold[ray]'"


@pytest.mark.parametrize(
    ("machines", "workers", "device", "expected"),
    [
        ([{"CPU": 2.0}], None, "cpu", (1, 2)),
        ([{"CPU": 2.0}], 2, "cpu", (2, 1)),
        ([{"CPU": 8.0}, {"CPU": 4.0}], None, "cpu", (2, 4)),
        ([{"CPU": 8.0}, {"CPU": 4.0}], 3, "cpu", (3, 2)),
        ([{"CPU": 8.0}, {"CPU": 2.0}], 10, "cpu", (10, 1)),
        ([{"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0}, {"CPU": 8.0, "GPU": 2.0}], None, "cuda", (6, 1)),
        ([{"CPU": 8.0, "GPU": 4.0}], 3, "cuda", (3, 1)),
    ],
)
def test_workers_are_spread_over_what_ray_has(
    stand_in: StandInRay,
    order: Order,
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    machines: list[dict[str, float]],
    workers: int | None,
    device: str,
    expected: tuple[int, int],
) -> None:
    for number in range(12):
        write(f"{number}.txt", 1)
    monkeypatch.setattr(Worker, "load", lambda _: None)
    monkeypatch.setattr(Worker, "fold", lambda _, job, again: Outcome(job.source, FOLDED))
    stand_in.machines = tuple(machines)
    assert len(run("ray", replace(order, device=device), tmp_path / "spread", workers)) == 12
    (options,) = stand_in.options
    assert (len(stand_in.handles), options["num_cpus"]) == expected
    assert options["num_gpus"] == (device == "cuda")


@pytest.mark.parametrize(
    ("workers", "device", "message"),
    [
        (3, "cpu", "--workers = 3 is not possible; allowed: 1 to 2, the CPUs that Ray has"),
        (None, "cuda", "Ray has no GPU; choose another --device, or another cluster in RAY_ADDRESS"),
        (None, "cuda:1", "--device = 'cuda:1' is not possible; allowed: cuda; Ray chooses the GPU of a worker"),
        (None, "tpu", "device 'tpu' is not possible; allowed: cpu, cuda, cuda:N, mps"),
        (0, "cpu", "--workers = 0 is not possible; allowed: 1 or more"),
    ],
)
def test_what_ray_does_not_have_is_refused(
    stand_in: StandInRay, order: Order, write: Write, tmp_path: Path, workers: int | None, device: str, message: str
) -> None:
    write("a.txt", 1)
    with pytest.raises(ConfigError) as caught:
        run("ray", replace(order, device=device), tmp_path / "spread", workers)
    assert str(caught.value) == message
    assert not stand_in.handles


def test_ray_is_started_small_or_joined(stand_in: StandInRay, order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(RayEngine(1).run(order, [])) == []
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert list(RayEngine(1).run(order, [])) == []
    local, joined = stand_in.inits
    assert (local["address"], local["object_store_memory"]) == ("local", OBJECTS)
    assert joined["address"] == "10.0.0.1:6379"
    assert "object_store_memory" not in joined

    def refuse(**_: object) -> None:
        raise ConnectionError("no cluster\nat 10.0.0.1:6379")

    monkeypatch.setattr(stand_in, "init", refuse)
    with pytest.raises(ConfigError, match=r"Ray does not start: no cluster\s+at 10\.0\.0\.1:6379; check RAY_ADDRESS"):
        list(RayEngine(1).run(order, []))
