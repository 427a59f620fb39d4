from __future__ import annotations

import json
import pickle
import tempfile
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from made_memories import make_memory, memories, same_bits, small_memory
from safetensors import safe_open

from memfold.core.errors import DataError
from memfold.core.types import Memory
from memfold.memory import describe, manifest, open_memory, save_memory
from memfold.memory.manifest import Contents, Manifest, encode

SETTINGS = {"ratio": 16, "hidden": 256, "wrappers": "span", "positions": "consecutive", "window": 16, "chunk": 4096,
            "kv_bytes_per_token": 6144, "projection": "linear", "mask": "causal", "bridge": 4}  # fmt: skip


def message(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_memory(path)
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
        for name in ("index", "source", "token_start", "token_end", "char_start", "char_end", "starts"):
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
        said = message(bad)
        assert length < 9 or "truncated" in said
    bad.write_bytes(data + b"x")
    assert f"{len(data) + 1} bytes, its header announces {len(data)}" in message(bad)


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
        patch.setattr(manifest, "VERSION", 7)
        save_memory(small_memory(), path)
    assert "format version '7', this memfold reads version '1'" in message(path)


def test_a_table_that_contradicts_its_manifest_is_refused_even_when_hashed_right(tmp_path: Path) -> None:
    path = tmp_path / "a.fold"
    save_memory(small_memory(), path)
    data = path.read_bytes()
    length = 8 + int.from_bytes(data[:8], "little")
    found, contents = manifest.decode(data[8:length])
    lying = Contents(**{**vars(contents), "tokens": contents.tokens + 1})
    path.write_bytes(encode(found, lying) + data[length:])
    assert "block table does not agree" in message(path)
    path.write_bytes(encode(found, Contents(**{**vars(contents), "tensors": {}})) + data[length:])
    assert "header was altered" in message(path)


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
    found = describe(path)
    parts, per_token = found["bytes"], found["bytes_per_token"]
    assert parts["slots"] == chunks * 4096 // 16 * 8 * 2
    assert parts["rest"] == parts["table"] + parts["header"] == path.stat().st_size - parts["slots"] - parts["text"]
    assert parts["rest"] <= 4096 + 64 * chunks
    assert parts["total"] == path.stat().st_size
    assert per_token["slots"] == 8 * 2 / 16
    assert per_token["kv_cache"] == 6144
    assert per_token["total"] == path.stat().st_size / (4096 * chunks)
    assert (found["blocks"], found["tokens"], found["slots"], found["hidden"]) == (
        chunks,
        4096 * chunks,
        256 * chunks,
        8,
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dtype": "float16"}, "dtype 'float16'"),
        ({"sha256": ()}, "0 hashes for 1 documents"),
        ({"sources": (), "sha256": ()}, "at least one"),
        ({"sha256": ("ab",)}, "'ab'"),
        ({"settings": {"ratio": 0}}, "ratio 0"),
        ({"settings": {"ratio": [4, 8]}}, "ratio [4, 8]"),
        ({"settings": {"x": float("nan")}}, "settings cannot be stored"),
        ({"settings": {"x": object()}}, "settings cannot be stored"),
    ],
)
def test_a_manifest_refuses_what_a_file_cannot_hold(change: dict[str, Any], said: str) -> None:
    values: dict[str, Any] = {
        "system": "full",
        "settings": {},
        "fingerprint": "",
        "sources": ("a",),
        "sha256": ("0" * 64,),
    }
    with pytest.raises(DataError, match=said.replace("[", r"\[")):
        Manifest(**(values | change))


def finite() -> Memory:
    """The small memory with slots that int8 can hold."""
    memory = small_memory("float32")
    for block in memory.blocks:
        assert block.slots is not None
        block.slots.copy_(torch.arange(block.slots.numel()).view(block.slots.shape) / 7 - 1)
    return memory
