"""One writer for each memory file: real processes, some of them killed."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from made_memories import manifest_of, small_memory, write_some

from memfold.core import lock as locking
from memfold.core.errors import DataError
from memfold.memory import MemoryWriter, WriteLock, open_memory, save_memory
from memfold.memory.partial import discard_empty, interrupted, partial_folder

FORK = multiprocessing.get_context("fork")
BUSY = r"another process is writing .*a\.fold; wait for it or choose another name"
ROUNDS, WRITERS = 40, 4


@contextmanager
def process(target: Callable[..., None], *arguments: Any) -> Iterator[Any]:
    """Another process that says when it is ready; it is killed at the end."""
    ready, begun = FORK.Pipe(duplex=False)
    child = FORK.Process(target=target, args=(*arguments, begun))
    child.start()
    try:
        assert ready.recv() == "ready"
        yield child
    finally:
        child.kill()
        child.join()


def hold(path: Path, begun: Any) -> None:
    """Write some blocks and wait to be killed."""
    memory = small_memory()
    writer = MemoryWriter(path, manifest_of(memory), resume=True)
    for block in memory.blocks[:3]:
        writer.add(block)
    begun.send("ready")
    begun.close()
    multiprocessing.Event().wait(60)


def test_a_second_writer_is_refused_at_once_and_a_killed_one_is_not_in_the_way(tmp_path: Path) -> None:
    path, memory = tmp_path / "a.fold", small_memory()
    save_memory(memory, path)
    before = path.read_bytes()
    with process(hold, path) as child:
        with pytest.raises(DataError, match=BUSY):
            save_memory(memory, path)
        with pytest.raises(DataError, match=BUSY):
            MemoryWriter(path, manifest_of(memory), resume=True)
        assert len(open_memory(path).blocks) == 5  # readers are not disturbed
        assert path.read_bytes() == before
        child.kill()
        child.join()
        assert interrupted(partial_folder(path)) is not None
    with MemoryWriter(path, manifest_of(memory), resume=True) as writer:
        assert sum(writer.complete) == 3
        for block in memory.blocks[3:]:
            writer.add(block)
        writer.finish()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_second_writer_of_the_same_process_is_refused(tmp_path: Path) -> None:
    with WriteLock(tmp_path / "a.fold"), pytest.raises(DataError, match=BUSY):
        WriteLock(tmp_path / "a.fold")
    with WriteLock(tmp_path / "a.fold") as lock:
        assert lock.is_held
    assert not lock.is_held
    assert list(tmp_path.iterdir()) == []


def test_a_link_has_the_lock_of_its_file(tmp_path: Path) -> None:
    memory = small_memory()
    save_memory(memory, tmp_path / "a.fold")
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "b.fold"
    link.symlink_to(tmp_path / "a.fold")
    with WriteLock(link), pytest.raises(DataError, match=BUSY):
        save_memory(memory, tmp_path / "a.fold")
    save_memory(memory, link, keep_text=False)
    assert link.is_symlink()
    assert open_memory(tmp_path / "a.fold").blocks[0].read() is None


def count_up(path: Path, counter: Path, begun: Any) -> None:
    """Add to a number in a file while the lock is held, as often as the lock is free."""
    begun.send("ready")
    done = 0
    while done < ROUNDS:
        try:
            lock = WriteLock(path)
        except DataError:
            continue
        with lock:
            value = int(counter.read_text())
            counter.write_text(str(value + 1))
            done += 1
    os._exit(0)


def test_the_lock_is_held_by_one_process_at_a_time(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    pipes = [FORK.Pipe(duplex=False) for _ in range(WRITERS)]
    children = [FORK.Process(target=count_up, args=(tmp_path / "a.fold", counter, begun)) for _, begun in pipes]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert int(counter.read_text()) == ROUNDS * WRITERS
    assert list(tmp_path.iterdir()) == [counter]


def test_a_lock_whose_folder_was_removed_does_not_finish(tmp_path: Path) -> None:
    path, memory = tmp_path / "a.fold", small_memory()
    save_memory(memory, path)
    before = path.read_bytes()
    with MemoryWriter(path, manifest_of(memory)) as writer:
        for block in memory.blocks:
            writer.add(block)
        shutil.rmtree(partial_folder(path))
        save_memory(memory, path)  # another fold begins and ends meanwhile
        with pytest.raises(DataError, match=r"cannot write|was removed or replaced during the fold"):
            writer.finish()
    assert path.read_bytes() == before


def test_a_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.fold"
    folder = partial_folder(path)
    for files in ({"manifest.json": '{"name": "an extension"}'}, {"manifest.json": "{", "rows": ""}, {"text": "mine"}):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
        with pytest.raises(DataError, match="a folder with other files in it"):
            save_memory(small_memory(), path)
        assert {file.name: file.read_text() for file in folder.iterdir()} == files


def test_what_a_fold_left_before_its_first_block_is_removed_with_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "a.fold"
    write_some(path, small_memory(), "bfloat16", 0)
    assert partial_folder(path).exists()
    WriteLock(path).release()
    assert list(tmp_path.iterdir()) == []
    write_some(path, small_memory(), "bfloat16", 1)
    WriteLock(path).release()
    discard_empty(partial_folder(path))
    assert interrupted(partial_folder(path)) is not None


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOLCK, "its file system has no locks; choose a path on a local disk"),
        (errno.ENOSYS, "its file system has no locks; choose a path on a local disk"),
        (errno.EIO, r"cannot write .*a\.fold: Input/output error; choose another place"),
    ],
)
def test_a_file_that_cannot_be_locked_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, said: str
) -> None:
    def failing(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(locking, "_lock", failing)
    with pytest.raises(DataError, match=said):
        WriteLock(tmp_path / "a.fold")
