from __future__ import annotations

import hashlib
import json
import pickle
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from made_memories import make_memory, memories, random_bits, same_bits, small_memory, without_checksums
from safetensors import safe_open

from memfold.core.errors import DataError
from memfold.core.types import Block, Memory
from memfold.memory import describe, manifest, open_memory, open_stored, save_memory
from memfold.memory.manifest import COLUMNS, Contents, Manifest, encode

SETTINGS = {
    "ratio": 16,
    "hidden": 256,
    "wrappers": "span",
    "positions": "consecutive",
    "window": 16,
    "chunk": 4096,
    "kv_bytes_per_token": 6144,
    "projection": "linear",
    "mask": "causal",
    "bridge": 4,
}


def message(path: Path) -> str:
    """What is said of a file that cannot be opened, or whose slots cannot be read."""
    with pytest.raises(DataError) as caught:
        _ = [block.slots for block in open_memory(path).blocks]
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


@settings(max_examples=60, deadline=None)
@given(memories())
def test_what_is_saved_comes_back_bit_for_bit(made: tuple[Memory, str]) -> None:
    memory, dtype = made
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.fold"
        save_memory(memory, path, dtype=dtype)
        loaded = open_memory(path)
        assert [file.name for file in Path(folder).iterdir()] == ["a.fold"]
    for name in ("system", "settings", "fingerprint", "sources", "sha256", "token_count", "slot_count"):
        assert getattr(loaded, name) == getattr(memory, name)
    for before, after in zip(memory.blocks, loaded.blocks, strict=True):
        for name in ("index", "source", "token_start", "token_end", "char_start", "char_end", "slot_count"):
            assert getattr(after, name) == getattr(before, name)
        assert after.read() == before.text
        assert (after.slots is None) == (before.slots is None)
        assert after.slots is None or before.slots is None or same_bits(after.slots, before.slots)


def test_every_single_altered_byte_is_found(tmp_path: Path) -> None:
    path, bad = tmp_path / "a.fold", tmp_path / "bad.fold"
    for dtype in ("int8", "bfloat16"):
        save_memory(finite(), path, dtype=dtype)
        data = path.read_bytes()
        for offset in range(len(data)):
            bad.write_bytes(data[:offset] + bytes([data[offset] ^ (1 << offset % 8)]) + data[offset + 1 :])
            message(bad)


def test_truncation_at_any_byte_and_anything_appended_is_found(tmp_path: Path) -> None:
    path, bad = tmp_path / "a.fold", tmp_path / "bad.fold"
    save_memory(small_memory(), path)
    data = path.read_bytes()
    for length in range(len(data)):
        bad.write_bytes(data[:length])
        problem = message(bad)
        assert length < 9 or "truncated" in problem
    bad.write_bytes(data + b"x")
    assert f"{len(data) + 1} bytes instead of the {len(data)} in its header" in message(bad)


def test_other_files_are_refused_and_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "a.fold"
    assert "no memory file" in message(path)
    for data in (b"", b"{}", b"just a text file that is longer than its header", pickle.dumps({"a": 1})):
        path.write_bytes(data)
        assert "not a memory file" in message(path)
    torch.save({"slots": torch.zeros(3)}, path)
    assert "not a memory file" in message(path)
    header = json.dumps({"__metadata__": {"format": "pt", "version": "1"}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert "its format is 'pt'" in message(path)
    assert "Is a directory" in message(tmp_path)


def test_another_format_version_is_named_beside_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.fold"
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "VERSIONS", ("6", "7"))
        save_memory(small_memory(), path)
    assert "format version '7', but this version of memfold reads '1' and '2'" in message(path)


def test_a_table_that_contradicts_its_manifest_is_refused_even_when_hashed_right(tmp_path: Path) -> None:
    path = tmp_path / "a.fold"
    save_memory(small_memory(), path)
    data = path.read_bytes()
    length = 8 + int.from_bytes(data[:8], "little")
    head, contents = manifest.decode(data[8:length])
    lying = Contents(**{**vars(contents), "tokens": contents.tokens + 1})
    path.write_bytes(encode(head, lying) + data[length:])
    assert "block table does not agree" in message(path)
    path.write_bytes(encode(head, Contents(**{**vars(contents), "tensors": {}})) + data[length:])
    assert "header was altered" in message(path)


@pytest.mark.parametrize(
    "changes",
    [
        {(0, "source"): -1},
        {(0, "source"): 2},
        {(0, "token_end"): 1},
        {(0, "token_start"): -1, (1, "token_end"): -1},
        {(0, "token_end"): -10, (1, "token_end"): 10},
        {(0, "char_end"): 1},
        {(0, "char_end"): -16, (1, "char_end"): 16},
        {(0, "slot_count"): 1},
        {(0, "slot_count"): -4, (1, "slot_count"): 4},
        {(0, "text_bytes"): -1},
        {(0, "text_bytes"): -99, (1, "text_bytes"): 99},
    ],
)
def test_a_forged_table_is_refused(tmp_path: Path, changes: dict[tuple[int, str], int]) -> None:
    path = tmp_path / "a.fold"
    save_memory(small_memory(), path)
    forge(path, changes)
    assert "block table does not agree" in message(path)


def test_slot_counts_in_a_file_of_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.fold"
    save_memory(make_memory([["Ann", "Ben"]], [[3, 4]], {"chunk": 4}, "bfloat16"), path)
    forge(path, {})
    assert [block.slots for block in open_memory(path).blocks] == [None, None]
    forge(path, {(0, "slot_count"): 1, (1, "slot_count"): -1})
    assert "block table does not agree" in message(path)


def test_how_many_slots_a_block_has_is_for_the_system_to_say(tmp_path: Path) -> None:
    path, memory = tmp_path / "a.fold", small_memory()
    counts = (7, 0, 1, 2, 5)
    memory.blocks = [
        replace(block, slots=random_bits((count, 4), "bfloat16", block.index))
        for block, count in zip(memory.blocks, counts, strict=True)
    ]
    save_memory(memory, path)
    opened = open_memory(path)
    assert tuple(block.slot_count for block in opened.blocks) == counts
    assert opened.slot_count == describe(path)["slots"] == 15
    for before, after in zip(memory.blocks, opened.blocks, strict=True):
        assert before.slots is not None
        assert after.slots is not None
        assert same_bits(before.slots, after.slots)


def test_a_memory_of_text_has_no_slots_and_no_dtype(tmp_path: Path) -> None:
    path = tmp_path / "a.fold"
    save_memory(make_memory([["Ann", "Ben"]], [[3, 4]], {"chunk": 4}, "bfloat16"), path, dtype="int8")
    sizes = describe(path)
    assert (sizes["dtype"], sizes["hidden"], sizes["slots"], sizes["bytes"]["slots"]) == (None, 0, 0, 0)
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == {"table", "text"}


def test_the_file_calls_the_chat_template_frame_and_settings_do_not(tmp_path: Path) -> None:
    """As files were written before the setting had this name; their bytes stay as they are."""
    path, settings = tmp_path / "a.fold", {"ratio": 4, "chat_template": "chatml"}
    save_memory(replace(small_memory(), settings=settings), path)
    with safe_open(path, "pt") as file:
        stored = json.loads(file.metadata()["manifest"])["settings"]
    assert stored == {"ratio": 4, "frame": "chatml"}
    assert b"chat_template" not in path.read_bytes()
    assert open_memory(path).settings == open_stored(path).manifest.settings == describe(path)["settings"] == settings


@pytest.mark.parametrize(
    ("dtype", "first", "second"),
    [
        (
            "bfloat16",
            "2813f52ef4c0fa74de290d629024ad2fe8de6001c043b6b920ad3d0cbb5af2ce",
            "9bad1cc29e3b9f3d09468993fe6bf52aa6a89c3a1a1b9fcb262a3cace78bcaf2",
        ),
        (
            "int8",
            "45839b0bfab2b7a6e9f6a1b07980489c7eeca16d26671fde0971ab4d2c52564f",
            "467f8847e2b00e68bddca1c321882e2de3695eb888579df5272bdbf807bee930",
        ),
    ],
)
def test_the_bytes_of_a_file_of_each_version(tmp_path: Path, dtype: str, first: str, second: str) -> None:
    """Without text, whose compressed bytes depend on the version of zlib."""
    path, slots = tmp_path / "a.fold", torch.arange(12.0).view(3, 4) / 8
    settings = {"ratio": 4, "window": 64, "chat_template": "chatml", "style": "bare"}
    block = Block(0, 0, 0, 9, 0, 11, slots, "Ann signed.")
    memory = Memory("m", "pooled", settings, "encoder-1", ("a.txt",), [block], ("0" * 64,))
    save_memory(memory, path, dtype=dtype, keep_text=False)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == second
    without_checksums(path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == first


def test_the_safetensors_library_reads_it(tmp_path: Path) -> None:
    for dtype in ("float32", "bfloat16", "int8"):
        path, memory = tmp_path / f"{dtype}.fold", finite()
        save_memory(memory, path, dtype=dtype)
        with safe_open(path, "pt") as file:
            assert json.loads(file.metadata()["manifest"])["system"] == "pooled"
            slots, table, text = file.get_tensor("slots"), file.get_tensor("table"), file.get_tensor("text")
        assert slots.shape == (10, 4)
        assert table.tolist()[0][:6] == [0, 0, 9, 0, 15, 3]
        assert zlib.decompress(bytes(text[: table[0, 6]].tolist())) == b"Ann signed it.\n"
        expected = torch.cat([block.slots for block in memory.blocks if block.slots is not None])
        if dtype != "int8":
            assert torch.equal(slots, expected.to(slots.dtype))


def test_slots_stay_in_the_file_and_the_file_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.fold"
    save_memory(small_memory(), path)
    before, memory = path.read_bytes(), open_memory(path)
    first, second = memory.blocks[0].slots, memory.blocks[1].slots
    assert first is not None
    assert second is not None
    assert second.data_ptr() == first.data_ptr() + first.nbytes
    first.zero_()
    assert path.read_bytes() == before
    save_memory(open_memory(path), path, keep_text=False)  # a memory can be written over the file that it is in
    assert memory.blocks[4].read() == "Łódź."


def test_text_is_read_block_by_block_and_not_before_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, engines, original = tmp_path / "a.fold", [], zlib.decompressobj
    save_memory(small_memory(), path)
    monkeypatch.setattr(zlib, "decompressobj", lambda: engines.append(1) or original())  # type: ignore[func-returns-value]
    memory = open_memory(path)
    assert engines == []
    assert memory.blocks[2].read() == "Zoë "
    assert engines == [1]


def test_without_text_none_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "a.fold"
    save_memory(small_memory(), path, keep_text=False)
    assert [block.read() for block in open_memory(path).blocks] == [None] * 5
    assert describe(path)["bytes"]["text"] == 0
    assert b"Ann" not in path.read_bytes()


@pytest.mark.parametrize("chunks", [1, 500])
def test_slots_take_exactly_their_share_and_the_rest_keeps_its_budget(tmp_path: Path, chunks: int) -> None:
    path = tmp_path / "a.fold"
    texts = [["word " * 40] * chunks]
    save_memory(make_memory(texts, [[4096] * chunks], SETTINGS, "bfloat16", hidden=8), path)
    sizes = describe(path)
    parts, per_token = sizes["bytes"], sizes["bytes_per_token"]
    assert parts["slots"] == chunks * 4096 // 16 * 8 * 2
    parts_of_rest = parts["table"] + parts["checksums"] + parts["header"]
    assert parts["rest"] == parts_of_rest == path.stat().st_size - parts["slots"] - parts["text"]
    assert parts["rest"] <= 4096 + 64 * chunks
    assert parts["total"] == path.stat().st_size
    assert per_token["slots"] == 8 * 2 / 16
    assert per_token["kv_cache"] == 6144
    assert per_token["total"] == path.stat().st_size / (4096 * chunks)
    assert (sizes["blocks"], sizes["tokens"], sizes["slots"], sizes["hidden"]) == (
        chunks,
        4096 * chunks,
        256 * chunks,
        8,
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"dtype": "float16"}, "dtype 'float16'"),
        ({"sha256": ()}, "0 hashes for 1 documents"),
        ({"sources": (), "sha256": ()}, "at least one"),
        ({"sha256": ("ab",)}, "'ab'"),
        ({"settings": {"x": float("nan")}}, "settings cannot be stored"),
        ({"settings": {"x": object()}}, "settings cannot be stored"),
    ],
)
def test_a_manifest_refuses_what_a_file_cannot_hold(change: dict[str, Any], problem: str) -> None:
    values: dict[str, Any] = {
        "system": "full",
        "settings": {},
        "fingerprint": "",
        "sources": ("a",),
        "sha256": ("0" * 64,),
    }
    with pytest.raises(DataError, match=problem):
        Manifest(**(values | change))


def forge(path: Path, changes: dict[tuple[int, str], int]) -> None:
    """Add to numbers of the block table, each given by its row and column, with hashes that are right."""
    data = path.read_bytes()
    length = 8 + int.from_bytes(data[:8], "little")
    head, contents = manifest.decode(data[8:length])
    size = contents.blocks * len(COLUMNS) * 8
    table = np.frombuffer(data[length : length + size], "<i8").reshape(-1, len(COLUMNS)).copy()
    for (row, column), change in changes.items():
        table[row, COLUMNS.index(column)] += change
    hashes = {**contents.tensors, "table": hashlib.sha256(table.tobytes()).hexdigest()}
    path.write_bytes(encode(head, replace(contents, tensors=hashes)) + table.tobytes() + data[length + size :])


def finite() -> Memory:
    """The small memory with slots that int8 can hold."""
    memory = small_memory("float32")
    for block in memory.blocks:
        assert block.slots is not None
        block.slots.copy_(torch.arange(block.slots.numel()).view(block.slots.shape) / 7 - 1)
    return memory
