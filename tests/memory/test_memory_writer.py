from __future__ import annotations

import errno
import os
import shutil
import tempfile
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from file_size_limit import file_size_limit
from hypothesis import given, settings
from hypothesis import strategies as st
from made_memories import manifest_of, memories, random_bits, small_memory, write_some

from memfold.core.errors import DataError
from memfold.core.types import Block, Memory
from memfold.memory import Manifest, MemoryWriter, open_memory, save_memory


def resume(path: Path, memory: Memory, dtype: str = "bfloat16") -> tuple[int, ...]:
    """Finish an interrupted fold; what was complete before."""
    with MemoryWriter(path, manifest_of(memory, dtype), resume=True) as writer:
        complete, seen = writer.complete, [0] * len(memory.sources)
        for block in memory.blocks:
            seen[block.source] += 1
            if seen[block.source] > complete[block.source]:
                writer.add(block)
        writer.finish()
    return complete


@settings(max_examples=40, deadline=None)
@given(memories(), st.data())
def test_a_resumed_fold_ends_in_the_bytes_of_an_unbroken_one(made: tuple[Memory, str], data: st.DataObject) -> None:
    memory, dtype = made
    count = data.draw(st.integers(0, len(memory.blocks)))
    with tempfile.TemporaryDirectory() as folder:
        whole, path = Path(folder) / "whole", Path(folder) / "a.fold"
        save_memory(memory, whole, dtype=dtype)
        write_some(path, memory, dtype, count)
        assert sum(resume(path, memory, dtype)) == count
        assert path.read_bytes() == whole.read_bytes()
        assert not path.with_name("a.fold.partial").exists()


@settings(max_examples=60, deadline=None)
@given(memories(slots=True), st.sampled_from(("slots", "text", "rows")), st.booleans(), st.data())
def test_a_torn_or_altered_end_is_cut_off(made: tuple[Memory, str], name: str, cut: bool, data: st.DataObject) -> None:
    memory, dtype = made
    with tempfile.TemporaryDirectory() as folder:
        whole, path = Path(folder) / "whole", Path(folder) / "a.fold"
        save_memory(memory, whole, dtype=dtype)
        write_some(path, memory, dtype, len(memory.blocks))
        part = path.with_name("a.fold.partial") / name
        content = bytearray(part.read_bytes())
        if content and not cut:
            content[data.draw(st.integers(0, len(content) - 1))] ^= 255
        part.write_bytes(content[: data.draw(st.integers(0, len(content)))] if cut else content)
        assert sum(resume(path, memory, dtype)) <= len(memory.blocks)
        assert path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"ratio": 4, "hidden": 4, "wrappers": "none"}},
        {"fingerprint": "encoder-2"},
        {"sources": ("x", "y")},
        {"sha256": ("0" * 64, "1" * 64)},
        {"dtype": "float32"},
        {"keep_text": False},
    ],
)
def test_another_fold_starts_afresh(tmp_path: Path, change: dict[str, Any]) -> None:
    memory, path = small_memory(), tmp_path / "a.fold"
    write_some(path, memory, "bfloat16", 3)
    assert MemoryWriter(path, manifest_of(memory), resume=True).complete == (2, 1)
    with MemoryWriter(path, replace(manifest_of(memory), **change), resume=True) as writer:
        assert writer.complete == (0, 0)


def test_without_resume_the_fold_starts_afresh(tmp_path: Path) -> None:
    write_some(tmp_path / "a.fold", small_memory(), "bfloat16", 3)
    assert MemoryWriter(tmp_path / "a.fold", manifest_of(small_memory())).complete == (0, 0)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_fold_keeps_the_old_file_and_its_blocks(tmp_path: Path, error: type[BaseException]) -> None:
    memory, path = small_memory(), tmp_path / "a.fold"
    path.write_bytes(b"old")

    def broken() -> Iterator[Block]:
        yield memory.blocks[0]
        raise error

    with pytest.raises(error):
        save_memory(replace(memory, blocks=broken()), path)  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert resume(path, memory) == (1, 0)
    assert len(open_memory(path).blocks) == 5


def test_a_fold_that_fails_before_its_first_block_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no blocks"):
        save_memory(replace(small_memory(), blocks=[]), tmp_path / "a.fold")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("owner", "name"), [(os, "replace"), (os, "fsync"), (shutil, "copyfileobj")])
def test_a_full_disk_at_the_end_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    memory, path = small_memory(), tmp_path / "a.fold"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        with pytest.raises(DataError, match=r"No space left on device; free some space.*5 finished blocks") as caught:
            save_memory(memory, path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"old"
    assert not (tmp_path / "a.fold.partial" / "memory").exists()
    assert resume(path, memory) == (2, 3)
    assert len(open_memory(path).blocks) == 5


@pytest.mark.parametrize("limit", [100, 1500, 4000, 9000])
def test_a_write_that_the_system_refuses_half_way_is_cut_off(tmp_path: Path, limit: int) -> None:
    memory, path = wide_memory(20), tmp_path / "a.fold"
    save_memory(memory, tmp_path / "whole", dtype="float32")
    path.write_bytes(b"old")
    with pytest.raises(DataError, match="File too large"), file_size_limit(limit):
        save_memory(memory, path, dtype="float32")
    assert path.read_bytes() == b"old"
    assert resume(path, memory, "float32") == (limit // 520 if limit >= 1500 else 0,)
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()


def test_after_a_failed_write_the_writer_refuses_to_go_on(tmp_path: Path) -> None:
    memory = wide_memory(2)
    with MemoryWriter(tmp_path / "a.fold", manifest_of(memory, "float32")) as writer:
        writer.add(memory.blocks[0])
        with pytest.raises(DataError, match="too large"), file_size_limit(600):
            writer.add(memory.blocks[1])
        with pytest.raises(DataError, match="resume it with a new writer"):
            writer.add(memory.blocks[1])
        with pytest.raises(DataError, match="resume it with a new writer"):
            writer.finish()


def test_places_that_cannot_be_written_are_refused_before_the_first_block(tmp_path: Path) -> None:
    manifest = manifest_of(small_memory())
    with pytest.raises(DataError, match=r"there is no folder|it is a folder"):
        MemoryWriter(tmp_path / "missing" / "a.fold", manifest)
    with pytest.raises(DataError, match=r"there is no folder|it is a folder"):
        MemoryWriter(tmp_path, manifest)
    (tmp_path / "a.fold.partial").write_text("a file")
    with pytest.raises(DataError, match=r"cannot write .*a\.fold"):
        MemoryWriter(tmp_path / "a.fold", manifest)
    mine = tmp_path / "b.fold.partial" / "text"
    mine.parent.mkdir()
    mine.write_text("not of a fold")
    with pytest.raises(DataError, match="other files"):
        MemoryWriter(tmp_path / "b.fold", manifest)
    assert mine.read_text() == "not of a fold"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"source": 2}, "documents 0 to 1"),
        ({"token_start": 99}, "from 99 to 9"),
        ({"slots": torch.zeros(3)}, r"shape \(3,\); allowed: \[slots, size\]"),
        ({"slots": torch.zeros(3, 0)}, r"shape \(3, 0\); allowed: \[slots, size\]"),
        ({"text": "short"}, "5 characters of text for 0 to 15"),
        ({"text": "\ud800" + "x" * 14}, "character 0 is an unpaired surrogate"),
    ],
)
def test_a_block_that_does_not_fit_is_refused_and_nothing_is_written(
    tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    memory = small_memory()
    save_memory(memory, tmp_path / "whole")
    with MemoryWriter(tmp_path / "a.fold", manifest_of(memory)) as writer:
        with pytest.raises(DataError, match=problem):
            writer.add(replace(memory.blocks[0], **change))
        for block in memory.blocks:
            writer.add(block)
        with pytest.raises(DataError, match="slots of 5 values after slots of 4"):
            writer.add(replace(memory.blocks[0], slots=torch.zeros(3, 5)))
        with pytest.raises(DataError, match="slots of 0 values after slots of 4"):
            writer.add(replace(memory.blocks[0], slots=None))
        writer.finish()
    assert (tmp_path / "a.fold").read_bytes() == (tmp_path / "whole").read_bytes()


def test_writing_takes_the_same_working_memory_for_any_length(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        slots, text = random_bits((64, 256), "float32", 1), "word " * 4000
        manifest = Manifest("pooled", {"ratio": 16}, "", ("a",), ("0" * 64,), "float32")
        tracemalloc.start()
        with MemoryWriter(tmp_path / "a.fold", manifest) as writer:
            for i in range(count):
                writer.add(Block(i, 0, i * 1024, i * 1024 + 1024, i * 20000, i * 20000 + 20000, slots, text))
            writer.finish()
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    assert peak(200) < 1.1 * peak(20)


def wide_memory(count: int) -> Memory:
    """Blocks of two slots of 65 float32 values: 520 bytes each."""
    slots = [random_bits((2, 65), "float32", i) for i in range(count)]
    blocks = [Block(i, 0, 8 * i, 8 * i + 8, 0, 0, slots[i]) for i in range(count)]
    return Memory("wide", "pooled", {"ratio": 4}, "", ("a",), blocks, ("0" * 64,))
