"""A damaged block is named when it is read, the others stay usable, and opening a file reads no slots."""

from __future__ import annotations

import hashlib
import pickle
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_memories import flip, manifest_of, memories, parsed, same_bits, small_memory, without_checksums
from safetensors.numpy import load_file

from memfold.core.errors import DataError
from memfold.core.types import Block, Memory
from memfold.memory import (
    MemoryWriter,
    concatenate,
    damage,
    describe,
    open_memory,
    open_stored,
    save_memory,
    verify,
)
from memfold.memory import reader as reader_module
from memfold.memory import stored as stored_module
from memfold.memory.manifest import encode

SECOND = "block 1 (document 0.txt, characters 15 to 28)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of five blocks, whose slots int8 can hold."""
    save_memory(finite(), tmp_path / "a.fold", dtype="int8")
    return tmp_path / "a.fold"


def finite() -> Memory:
    memory = small_memory("float32")
    memory.blocks = [
        replace(block, slots=torch.arange(4.0 * block.slot_count).view(-1, 4) - block.index) for block in memory.blocks
    ]
    return memory


def start_of(path: Path, name: str, block: int, bytes_per_slot: int) -> int:
    """Where the slots or the scales of a block begin in a file."""
    before = sum(each.slot_count for each in open_memory(path).blocks[:block])
    return parsed(path)[2][name][0] + before * bytes_per_slot


def usable(memory: Memory) -> list[int]:
    """The blocks whose slots can be read."""
    return [block.index for block in memory.blocks if is_read(block)]


def is_read(block: Block) -> bool:
    try:
        return block.slots is not None
    except DataError:
        return False


def test_the_checksum_of_a_block_is_that_of_its_slots_and_scales(path: Path) -> None:
    stored = load_file(path)
    counts = [block.slot_count for block in open_memory(path).blocks]
    assert counts == [3, 2, 1, 2, 2]
    ends = np.cumsum([0, *counts])
    for block, (start, end) in enumerate(pairwise(ends)):
        data = stored["slots"][start:end].tobytes() + stored["scales"][start:end].tobytes()
        assert stored["checksums"][block] == zlib.crc32(data)
    assert (describe(path)["checksums"], describe(path)["bytes"]["checksums"]) == (True, 4 * 5)


@settings(max_examples=60, deadline=None)
@given(memories(slots=True), st.data())
def test_whatever_bit_of_a_block_is_altered_that_block_alone_is_lost(
    made: tuple[Memory, str], data: st.DataObject
) -> None:
    memory, dtype = made
    filled = [block.index for block in memory.blocks if block.slot_count]
    if not filled:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.fold"
        save_memory(memory, path, dtype=dtype)
        lost = data.draw(st.sampled_from(filled))
        block = memory.blocks[lost]
        assert block.slots is not None
        width = block.slot_size * block.slots.itemsize
        place = start_of(path, "slots", lost, width) + data.draw(st.integers(0, block.slot_count * width - 1))
        flip(path, place, data.draw(st.integers(0, 7)))
        opened = open_memory(path)
        assert usable(opened) == [index for index in range(len(memory.blocks)) if index != lost]
        assert verify(path) == [block.where(memory.sources[block.source])]
        for one, other in zip(opened.blocks, memory.blocks, strict=True):
            assert one.read() == (other.text or None)
            if one.index != lost:
                assert one.slots is not None
                assert other.slots is not None
                assert same_bits(one.slots, other.slots)


@pytest.mark.parametrize(("part", "bytes_per_slot"), [("slots", 4), ("scales", 4)])
def test_the_message_names_the_block_and_what_to_do(path: Path, part: str, bytes_per_slot: int) -> None:
    flip(path, start_of(path, part, 1, bytes_per_slot))
    memory = open_memory(path)
    assert (memory.slot_count, memory.blocks[1].slot_size) == (10, 4), "known without reading"
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            _ = memory.blocks[1].slots
        assert str(caught.value) == (
            f"{path}: the slots of {SECOND} were altered after they were written; fold the document again"
        )
    assert verify(path) == [SECOND]
    assert damage(path, [SECOND]) == f"{path} has 1 damaged block: {SECOND}; fold the document again"
    assert damage(path, list("abcdefg")).endswith(
        "has 7 damaged blocks: a, b, c, d, e and 2 more; fold the document again"
    )


def test_opening_reads_no_slots_and_a_block_is_checked_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed, checked = [], []
    hash_part, check = reader_module._hash, stored_module.checksum

    def counted(*arguments: object) -> str:
        hashed.append(arguments[-1])
        return hash_part(*arguments)  # type: ignore[arg-type]

    def checksum(slots: memoryview, scales: memoryview) -> int:
        checked.append(len(slots) + len(scales))
        return check(slots, scales)

    monkeypatch.setattr(reader_module, "_hash", counted)
    monkeypatch.setattr(stored_module, "checksum", checksum)
    memory = open_memory(path)
    sizes = describe(path)["bytes"]
    assert sorted(hashed[:3]) == sorted([sizes["table"], sizes["checksums"], sizes["text"]])
    assert checked == []
    for _ in range(2):
        assert memory.blocks[2].slots is not None
    assert checked == [1 * (4 + 4)]
    assert usable(memory) == [0, 1, 2, 3, 4]
    assert len(checked) == 5


def test_an_altered_checksum_is_found_when_the_file_is_opened(path: Path) -> None:
    flip(path, parsed(path)[2]["checksums"][0])
    with pytest.raises(DataError, match="its checksums part was altered"):
        open_memory(path)


def test_slots_that_are_altered_with_their_checksums_are_found_by_their_hash(path: Path) -> None:
    """A forged header, with the hash of the forged checksums and the old one of the slots."""
    manifest, contents, places = parsed(path)
    flip(path, places["slots"][0])
    data = path.read_bytes()
    parts = {name: data[start:end] for name, (start, end) in places.items()}
    first = open_memory(path).blocks[0].slot_count
    forged = zlib.crc32(parts["scales"][: 4 * first], zlib.crc32(parts["slots"][: 4 * first]))
    parts["checksums"] = forged.to_bytes(4, "little") + parts["checksums"][4:]
    hashes = dict(contents.tensors) | {"checksums": hashlib.sha256(parts["checksums"]).hexdigest()}
    path.write_bytes(encode(manifest, replace(contents, tensors=hashes)) + b"".join(parts.values()))
    assert usable(open_memory(path)) == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match="its slots part was altered after it was written"):
        verify(path)


def test_a_damaged_file_grows_no_further(path: Path) -> None:
    flip(path, start_of(path, "slots", 1, 4))
    with pytest.raises(DataError, match=r"has 1 damaged block: block 1 \(document 0.txt, .*; fold the document again"):
        open_stored(path)


def grown(path: Path, target: Path, memory: Memory) -> None:
    """Copy all blocks of a file into another one, as adding documents does."""
    with MemoryWriter(target, manifest_of(memory, "int8")) as writer:
        for row, data in open_stored(path).blocks():
            writer.copy(row, data)
        writer.finish()


@pytest.mark.parametrize("old", [False, True])
def test_copied_blocks_keep_their_checksums_and_old_ones_get_them(path: Path, old: bool) -> None:
    target, before = path.with_name("b.fold"), path.read_bytes()
    if old:
        without_checksums(path)
    grown(path, target, finite())
    assert target.read_bytes() == before


def test_a_file_without_checksums_is_checked_when_it_is_opened(path: Path) -> None:
    expected = [block.slots for block in open_memory(path).blocks]
    without_checksums(path)
    for one, other in zip(open_memory(path).blocks, expected, strict=True):
        assert one.slots is not None
        assert other is not None
        assert torch.equal(one.slots, other)
    assert verify(path) == []
    assert (describe(path)["checksums"], describe(path)["bytes"]["checksums"]) == (False, 0)
    flip(path, start_of(path, "slots", 1, 4))
    readers: list[Callable[[Path], object]] = [open_memory, open_stored, verify, describe]
    for read in readers:
        with pytest.raises(DataError, match="its slots part was altered after it was written"):
            read(path)


def test_a_memory_of_text_has_no_checksums(tmp_path: Path) -> None:
    """Its file is that of version 1, which earlier versions of memfold read."""
    memory, path = small_memory(), tmp_path / "a.fold"
    memory = replace(memory, system="full", blocks=[replace(block, slots=None) for block in memory.blocks])
    save_memory(memory, path)
    assert b'"version":"1"' in path.read_bytes()
    assert "checksums" not in parsed(path)[2]
    assert verify(path) == []


def test_joined_and_pickled_memories_check_what_they_hold(path: Path) -> None:
    """Joining reads no slots; a pickled block carries its bytes, damage included."""
    flip(path, start_of(path, "slots", 1, 4))
    joined = concatenate([open_memory(path)])
    assert not joined.blocks[0].moved(index=7).__dict__["slots"]._is_checked
    assert usable(joined) == [0, 2, 3, 4]
    copied = pickle.loads(pickle.dumps(open_memory(path)))
    path.unlink()
    assert usable(copied) == [0, 2, 3, 4]


def test_saving_a_memory_with_a_damaged_block_is_refused(path: Path) -> None:
    """The checksum that would be written would be that of the damage."""
    flip(path, start_of(path, "slots", 1, 4))
    target = path.with_name("b.fold")
    with pytest.raises(DataError, match=r"the slots of block 1 .* were altered"):
        save_memory(open_memory(path), target)
    assert not target.exists()
