"""Crafted memory files, with digests that are right: each is refused with a `DataError`, or opened as what it says, and
neither takes more memory than the size of the file accounts for."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_memories import make_memory, manifest_of, small_memory

from memfold.core.errors import DataError
from memfold.core.types import Block, Memory
from memfold.memory import MemoryWriter, describe, open_memory, open_stored, save_memory, verify
from memfold.memory.manifest import COLUMNS, Contents, Manifest, canonical, decode, tensors
from memfold.memory.reader import HEADER_LIMIT
from memfold.memory.slots import checksum
from memfold.memory.table import EXPANSION, FREE_CHARACTERS, FREE_TOTAL, compress

Parts = dict[str, bytes]
SPARE = 4 << 20  # bytes that opening any file may take in addition to a multiple of its size
HUGE = (0, 1, -1, 2, 7, 2**31, 2**47, 2**48, 2**62, 2**63 - 1, -(2**63), 10**8)


def craft(path: Path, values: dict[str, Any], parts: Parts) -> None:
    """Write a file whose manifest holds any values, with digests that are right."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()}
    text = canonical({"tensors": hashes} | values)
    metadata = {"format": "memfold-memory", "version": "2" if "checksums" in parts else "1", "manifest": text}
    header: dict[str, Any] = {"__metadata__": metadata | {"manifest_sha256": hashlib.sha256(text.encode()).hexdigest()}}
    for tensor in announced(values | {"tensors": hashes}):
        offsets = [tensor.start, tensor.end]
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
    body = canonical(header).encode()
    body += b" " * (-len(body) % 8)
    path.write_bytes(len(body).to_bytes(8, "little") + body + b"".join(parts.values()))


def announced(values: dict[str, Any]) -> list[Any]:
    """The tensors that a manifest announces; none if it announces nonsense."""
    contents = {name: values.get(name) for name in Contents.__dataclass_fields__}
    try:
        manifest = Manifest("", {}, "", ("",), ("0" * 64,), values["dtype"], values["keep_text"])
        made = tensors(manifest, Contents(**contents))
    except (DataError, TypeError, KeyError):
        return []
    return made if all(math.isfinite(tensor.end) for tensor in made) else []


def dismantled(path: Path) -> tuple[dict[str, Any], Parts]:
    """The manifest of a file without its hashes, and its tensors as bytes."""
    data = path.read_bytes()
    length = 8 + int.from_bytes(data[:8], "little")
    manifest, contents = decode(data[8:length])
    values = json.loads(json.loads(data[8:length])["__metadata__"]["manifest"])
    del values["tensors"]
    parts = {one.name: data[length + one.start : length + one.end] for one in tensors(manifest, contents)}
    return values, parts


def table_of(parts: Parts) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.frombuffer(parts["table"], "<i8").reshape(-1, len(COLUMNS)).copy()


def read_all(path: Path) -> Memory:
    """Open a file and read all of its text and slots."""
    memory = open_memory(path)
    for block in memory.blocks:
        block.read()
        _ = block.slots
    return memory


def refused(path: Path, *, most: int | None = None) -> str:
    """The message with which a file is refused by all that open one; it takes at most `most` bytes."""
    most = 64 * path.stat().st_size + SPARE if most is None else most
    for use in (read_all, lambda path: list(open_stored(path).blocks()), describe, verify):
        assert measured(use, path) < most, use
    with pytest.raises(DataError) as caught:
        read_all(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def measured(use: Callable[[Path], object], path: Path) -> int:
    """The peak of allocated bytes; only a `DataError` may be raised."""
    tracemalloc.start()
    try:
        use(path)
    except DataError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.fold"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.sampled_from(("bfloat16", "float32", "int8")), st.booleans(), st.booleans())
def test_no_crafted_numbers_do_harm(data: st.DataObject, dtype: str, keep_text: bool, counted: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.fold"
        memory = small_memory()
        if counted:
            memory.blocks = [replace(block, slot_tokens=(3,) * block.slot_count) for block in memory.blocks]
        save_memory(memory, path, dtype=dtype, keep_text=keep_text)
        before, size = open_memory(path), path.stat().st_size
        texts = [block.read() for block in before.blocks]  # before the file is changed in place
        values, parts = dismantled(path)
        names = st.sampled_from([name for name in Contents.__dataclass_fields__ if name != "tensors"])
        values |= data.draw(st.dictionaries(names, st.sampled_from(HUGE), max_size=2))
        table = table_of(parts)
        rows, columns = st.integers(0, len(table) - 1), st.integers(0, len(COLUMNS) - 1)
        for row, column, value in data.draw(st.lists(st.tuples(rows, columns, st.sampled_from(HUGE)), max_size=3)):
            table[row, column] = value
        if data.draw(st.booleans()):  # a manifest that agrees with the sums of the table, as they overflow
            with np.errstate(over="ignore"):
                total = dict(zip(COLUMNS, table.sum(0).tolist(), strict=True))
            values |= {"tokens": total["token_end"] - total["token_start"], "slots": total["slot_count"]}
            values |= {"characters": total["char_end"] - total["char_start"], "text_bytes": total["text_bytes"]}
        parts["table"] = table.tobytes()
        craft(path, values, parts)
        for use in (read_all, lambda path: list(open_stored(path).blocks()), describe, verify):
            assert measured(use, path) < 64 * size + SPARE
        try:
            after = read_all(path)
        except DataError:
            return
        assert [block.read() for block in after.blocks] == texts
        assert after.slot_count == before.slot_count


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_crafted_manifest_raises_anything_else(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.fold"
        save_memory(small_memory(), path)
        values, parts = dismantled(path)
        values["tensors"] = {name: hashlib.sha256(part).hexdigest() for name, part in parts.items()}
        values |= data.draw(st.dictionaries(st.sampled_from(sorted(values)), JSON, min_size=1, max_size=2))
        craft(path, values, parts)
        assert measured(read_all, path) < SPARE


def test_a_list_of_hashes_is_not_a_table_of_them(path: Path) -> None:
    save_memory(small_memory(), path)
    values, parts = dismantled(path)
    craft(path, values | {"tensors": sorted(parts)}, parts)
    assert "header was altered" in refused(path)


@pytest.mark.parametrize(
    "change",
    [{"hidden": 0, "slots": 10**8}, {"blocks": 0}, {"hidden": 2**48}, {"keep_text": 1}, {"keep_text": False}],
    ids=str,
)
def test_counts_that_no_file_has_are_refused(path: Path, change: dict[str, Any]) -> None:
    save_memory(small_memory(), path)
    values, parts = dismantled(path)
    if "hidden" in change:
        parts["slots"] = b""
    craft(path, values | change, parts)
    assert "header was altered" in refused(path)


@pytest.mark.parametrize(
    "change",
    [{"model": ["tiny"]}, {"hidden_size": "many"}, {"kv_bytes_per_token": "many"}, {"hidden_size": -1}],
    ids=str,
)
def test_a_model_that_cannot_be_described_is_refused(path: Path, change: dict[str, Any]) -> None:
    save_memory(small_memory(), path)
    values, parts = dismantled(path)
    craft(path, values | {"settings": values["settings"] | change}, parts)
    assert "header was altered" in refused(path)


def test_slots_of_no_size_are_refused_in_every_form(path: Path) -> None:
    """A table that announces the slots, too, and a place for their token counts."""
    save_memory(small_memory(), path)
    values, parts = dismantled(path)
    table = table_of(parts)
    table[:, COLUMNS.index("slot_count")] = 10**8 // len(table)
    parts = {"table": table.tobytes(), "text": parts["text"]}
    for dtype in ("bfloat16", "int8"):
        craft(path, values | {"hidden": 0, "slots": 10**8, "dtype": dtype}, parts)
        assert path.stat().st_size < 2000
        assert "header was altered" in refused(path, most=SPARE)


def test_an_announced_header_takes_no_more_memory_than_the_file(path: Path) -> None:
    path.write_bytes(HEADER_LIMIT.to_bytes(8, "little") + b'{"__metadata__":')
    assert "truncated" in refused(path, most=SPARE)


def craft_text(path: Path, blocks: int, size: int) -> None:
    """Write a memory of text with that many blocks of `size` equal characters each."""
    text = zlib.compress(b"a" * size, 9)
    table = [[0, n, n + 1, n * size, (n + 1) * size, 0, len(text)] for n in range(blocks)]
    values = {"blocks": blocks, "tokens": blocks, "characters": blocks * size, "slots": 0, "hidden": 0}
    values |= {"text_bytes": blocks * len(text), "dtype": "bfloat16", "keep_text": True}
    values |= {"system": "full", "settings": {}, "fingerprint": "", "sources": ["a"], "sha256": ["0" * 64]}
    craft(path, values, {"table": np.array(table, "<i8").tobytes(), "text": text * blocks})


@pytest.mark.parametrize("blocks", [1, 40])
def test_text_that_expands_too_far_is_refused_unread(path: Path, blocks: int) -> None:
    size = (200 << 20) // blocks
    craft_text(path, blocks, size)
    assert path.stat().st_size < 1 << 18
    assert "block table does not agree" in refused(path)


def test_many_blocks_of_little_text_have_a_limit_together(path: Path) -> None:
    size, blocks = FREE_CHARACTERS, FREE_TOTAL // FREE_CHARACTERS
    for count, fits in ((blocks, True), (blocks + 1, False)):
        craft_text(path, count, size)
        if fits:
            assert all(block.read() == "a" * size for block in open_memory(path).blocks)
        else:
            assert "block table does not agree" in refused(path)


@pytest.mark.parametrize("text", ["a" * (3 << 20), "é" * (2 << 20), "word " * 9, "\n"], ids=lambda text: text[:4])
def test_text_that_compresses_without_end_is_written_so_that_it_opens(path: Path, text: str) -> None:
    save_memory(make_memory([[text, text]], [[9, 9]], {"chunk": 9}, "bfloat16"), path)
    assert [block.read() for block in open_memory(path).blocks] == [text, text]
    assert len(text) <= EXPANSION * len(compress(text))


@pytest.mark.parametrize("column", ["token", "char"])
@pytest.mark.parametrize("moved", [(1, 1), (2, 5), (0, 3)])
def test_blocks_that_overlap_or_leave_a_gap_are_refused(path: Path, column: str, moved: tuple[int, int]) -> None:
    row, places = moved
    save_memory(small_memory(), path)
    values, parts = dismantled(path)
    table = table_of(parts)
    table[row, [COLUMNS.index(f"{column}_start"), COLUMNS.index(f"{column}_end")]] += places
    craft(path, values, parts | {"table": table.tobytes()})
    assert "block table does not agree" in refused(path)


def test_blocks_of_a_document_in_another_order_are_refused(path: Path) -> None:
    save_memory(small_memory(), path, keep_text=False)
    values, parts = dismantled(path)
    craft(path, values, parts | {"table": table_of(parts)[[1, 0, 2, 3, 4]].tobytes()})
    assert "block table does not agree" in refused(path)


@pytest.mark.parametrize("change", [{"token_start": 1}, {"char_start": 1}, {"token_start": 8, "token_end": 17}])
def test_the_writer_refuses_what_the_reader_would(path: Path, change: dict[str, int]) -> None:
    memory = small_memory()
    with MemoryWriter(path, manifest_of(memory)) as writer:
        writer.add(memory.blocks[0])
        with pytest.raises(DataError, match=r"block of document 1 begins at token \d and character \d; the one before"):
            writer.add(replace(memory.blocks[2], text=None, **change))
        with pytest.raises(DataError, match="the one before it ends at 9 and 15"):
            writer.add(memory.blocks[0])
        for block in memory.blocks[1:]:
            writer.add(block)
        writer.finish()
    assert [block.read() for block in open_memory(path).blocks] == [block.text for block in memory.blocks]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_slots_that_are_not_finite_are_refused_when_written_and_when_read(path: Path, dtype: str, value: float) -> None:
    """Even if hashes and checksums are right; a file without checksums is refused when it is opened."""
    memory = small_memory("float32")
    wrong = torch.tensor([[0.0, value, 0.0, 0.0]] * memory.blocks[3].slot_count)
    with pytest.raises(DataError, match=r"not finite .*float16.*; use it in bfloat16 or float32"):
        save_memory(
            replace(memory, blocks=[*memory.blocks[:3], replace(memory.blocks[3], slots=wrong), memory.blocks[4]]),
            path,
            dtype=dtype,
        )
    assert not path.exists()
    save_memory(memory, path, dtype=dtype)
    values, parts = dismantled(path)
    name = "scales" if dtype == "int8" else "slots"
    kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    last = torch.tensor([value], dtype=kind).view(torch.uint8).numpy().tobytes()
    parts |= {name: parts[name][: -len(last)] + last}
    count, scales = memory.blocks[4].slot_count, parts.get("scales", b"")
    own = checksum(
        parts["slots"][-count * 4 * kind.itemsize :] if not scales else parts["slots"][-count * 4 :],
        scales[-count * 4 :],
    )
    craft(path, values, parts | {"checksums": parts["checksums"][:-4] + own.to_bytes(4, "little")})
    opened = open_memory(path)
    assert opened.blocks[3].slots is not None
    with pytest.raises(DataError, match=r"the slots of block 4 .* are not finite"):
        _ = opened.blocks[4].slots
    del parts["checksums"]
    craft(path, values, parts)
    with pytest.raises(DataError, match=r"the slots of block 4 .* are not finite"):
        open_memory(path)


def test_slots_that_overflow_the_stored_dtype_are_refused(path: Path) -> None:
    block = Block(0, 0, 0, 4, 0, 3, torch.full((1, 4), 3.4e38), "Ann")
    memory = Memory("m", "pooled", {}, "", ("a",), [block], ("0" * 64,))
    save_memory(memory, path, dtype="float32")
    with pytest.raises(DataError, match="not finite"):
        save_memory(memory, path, dtype="bfloat16")


def test_slots_of_fewer_than_no_tokens_are_refused(path: Path) -> None:
    memory = small_memory()
    memory.blocks = [replace(block, slot_tokens=(3,) * block.slot_count) for block in memory.blocks]
    save_memory(memory, path)
    values, parts = dismantled(path)
    counts = np.frombuffer(parts["slot_tokens"], "<i4").copy()
    counts[:2] += (-9, 9)
    craft(path, values, parts | {"slot_tokens": counts.tobytes()})
    with pytest.raises(DataError, match="slots of fewer than 0 tokens"):
        open_memory(path)
