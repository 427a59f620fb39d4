"""One writer for each folder: real processes, some of them killed."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from memfold.core.errors import DataError
from memfold.core.lock import LOCK, FolderLock, locked

FORK = multiprocessing.get_context("fork")
BUSY = r"another process is writing .*run; wait for it or choose another folder"


def hold(folder: Path, begun: Any) -> None:
    """Take the lock, write a file, and wait to be killed."""
    with FolderLock(folder):
        (folder / "samples").write_text("1")
        begun.send("ready")
        multiprocessing.Event().wait(60)


def test_a_killed_process_leaves_no_lock_behind(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    ready, begun = FORK.Pipe(duplex=False)
    child = FORK.Process(target=hold, args=(folder, begun))
    child.start()
    try:
        assert ready.recv() == "ready"
        with pytest.raises(DataError, match=BUSY):
            FolderLock(folder)
        assert sorted(os.listdir(folder)) == [LOCK, "samples"]
    finally:
        child.kill()
        child.join()
    with FolderLock(folder) as lock:
        assert lock.is_held
    assert os.listdir(folder) == ["samples"]


def test_a_folder_is_made_and_removed_if_nothing_is_written(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "deep" / "run"):
        assert (tmp_path / "deep" / "run").is_dir()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "run").mkdir()
    FolderLock(tmp_path / "run").release()
    assert list(tmp_path.iterdir()) == [tmp_path / "run"], "it was there before"


def test_a_link_and_a_second_writer_of_one_process_find_the_same_lock(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    with FolderLock(tmp_path / "run") as lock:
        with pytest.raises(DataError, match=r"another process is writing .*link; wait for it"):
            FolderLock(tmp_path / "link")
        with locked(tmp_path / "run", lock) as same:
            assert same is lock
        assert lock.is_held
    assert not lock.is_held


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="it is a file; choose another folder"):
        FolderLock(tmp_path / "file")
    with pytest.raises(DataError, match=r"cannot write .*; choose another place"):
        FolderLock(tmp_path / "file" / "deeper")
    assert (tmp_path / "file").read_text() == "mine"
