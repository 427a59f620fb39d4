"""The environment that a command gives its threads, and how its process ends."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from memfold.cli import process
from memfold.cli.process import allowed_threads, set_up_process


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variable is set, there is no limit, and the garbage collector is restored afterwards."""
    for name in (*process.WAITING, process.THREADS):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    monkeypatch.setattr(process, "QUOTA_V2", Path("/nowhere"))
    monkeypatch.setattr(process, "QUOTA_V1", (Path("/nowhere"), Path("/nowhere")))
    monkeypatch.setattr(process, "processors", lambda: 8)
    thresholds, callbacks = gc.get_threshold(), list(gc.callbacks)
    yield
    gc.set_threshold(*thresholds)
    gc.callbacks[:] = callbacks
    gc.unfreeze()


def test_threads_wait_without_spinning_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    set_up_process()
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
    assert os.environ["OPENBLAS_THREAD_TIMEOUT"] == "4"
    assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    set_up_process()
    assert os.environ["OMP_WAIT_POLICY"] == "active"


@pytest.mark.parametrize(
    ("text", "threads"), [("250000 100000", 2), ("50000 100000", 1), ("800000 100000", None), ("max 100000", None)]
)
def test_a_container_limits_the_threads(
    text: str, threads: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(f"{text}\n")
    monkeypatch.setattr(process, "QUOTA_V2", tmp_path / "cpu.max")
    assert allowed_threads() == threads
    set_up_process()
    assert os.environ.get("OMP_NUM_THREADS") == (None if threads is None else str(threads))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    set_up_process()
    assert os.environ["OMP_NUM_THREADS"] == "7"


@pytest.mark.parametrize(("quota", "threads"), [(300000, 3), (-1, None)])
def test_older_control_groups(quota: int, threads: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = (tmp_path / "quota", tmp_path / "period")
    for path, value in zip(files, (quota, 100000), strict=True):
        path.write_text(f"{value}\n")
    monkeypatch.setattr(process, "QUOTA_V1", files)
    assert allowed_threads() == threads


def test_garbage_is_collected_as_usual_after_the_imports() -> None:
    usual, callbacks = gc.get_threshold(), list(gc.callbacks)
    set_up_process()
    assert gc.get_threshold() == (process.IMPORTED, *usual[1:])
    frozen = gc.get_freeze_count()
    gc.collect()
    assert gc.get_threshold() == usual
    assert gc.callbacks == callbacks
    assert gc.get_freeze_count() > frozen, "what was imported is not looked at again"


ENDING = """
import atexit, threading, time
from memfold.cli.process import end_process

# the interpreter waits for this thread when it is finalised
threading.Thread(target=lambda: time.sleep(1) or print("finalised")).start()
atexit.register(print, "left")
print("done", end=" ")
end_process(3)
"""


@pytest.mark.parametrize(("processes", "printed"), [("1", "done finalised\nleft\n"), ("2", "done left\n")])
def test_one_of_several_processes_does_not_finalise_its_interpreter(processes: str, printed: str) -> None:
    environment = os.environ | {"WORLD_SIZE": processes}
    done = subprocess.run([sys.executable, "-c", ENDING], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, printed, "")
