"""Opens a memory file, checks it, and describes its content.

All but the slots is checked when a file is opened: the header against its digest, the size, each tensor against its
hash, and the block table against the totals of the manifest.  Slots stay in the file, which is mapped; those of each
block are checked when they are first read (`memfold.memory.stored`), so opening a file does not take longer the more
slots it has, and a damaged block leaves the others usable.  `verify` checks them all.  A file without checksums, as
were written before there were any, is checked as a whole when it is opened.  Memory is allocated only in proportion to
the size of the file (`memfold.memory.table`).  Text is decompressed block by block when it is read.  Nothing is
unpickled.  A file that is changed in place while it is open is not protected; a new fold replaces the file instead.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from memfold.core.errors import DataError
from memfold.core.types import Block, Memory
from memfold.memory.manifest import CHECKSUMS, COLUMNS, SLOT_TYPES, Contents, Manifest, decode, tensors
from memfold.memory.partial import DATA
from memfold.memory.slots import checksum, torch_type
from memfold.memory.stored import ALTERED, StoredSegment, StoredSlots
from memfold.memory.table import is_sound

if TYPE_CHECKING:
    import torch

READ_BYTES = 1 << 20
HEADER_LIMIT = 100_000_000  # that of safetensors
SLOTS = ("slots", "scales")  # the parts that are checked block by block
SHOWN = 5  # damaged blocks that a message names


@dataclass(frozen=True)
class Layout:
    """The checked parts of a memory file; `data` is the offset of its tensors, `digest` identifies its content."""

    manifest: Manifest
    contents: Contents
    data: int
    digest: str

    @property
    def has_checksums(self) -> bool:
        """Whether each block has a checksum of its slots."""
        return CHECKSUMS in self.contents.tensors


@dataclass(frozen=True)
class StoredMemory:
    """A checked memory file to which documents are added: its blocks are copied without change."""

    path: Path
    layout: Layout

    @property
    def manifest(self) -> Manifest:
        """The manifest of the file."""
        return self.layout.manifest

    @property
    def block_count(self) -> int:
        """The number of blocks."""
        return self.layout.contents.blocks

    def blocks(self) -> Iterator[tuple[tuple[int, ...], dict[str, bytes]]]:
        """Yield the arguments of `MemoryWriter.copy` for each block: its row with the size of a slot, and its data."""
        placed = {tensor.name: tensor for tensor in tensors(self.manifest, self.layout.contents)}
        with _open(self.path) as file:
            file.seek(self.layout.data)
            table = np.frombuffer(file.read(placed["table"].end), "<i8").reshape(-1, len(COLUMNS))
            at = {name: self.layout.data + tensor.start for name, tensor in placed.items()}
            for row in table.tolist():
                data = dict.fromkeys(DATA, b"")
                for name in data.keys() & placed.keys():
                    size = self._size(name, row)
                    file.seek(at[name])
                    data[name] = file.read(size)
                    at[name] += size
                if self.layout.contents.hidden and not self.layout.has_checksums:
                    data[CHECKSUMS] = checksum(data["slots"], data["scales"]).to_bytes(4, "little")
                yield (*row, self.layout.contents.hidden), data

    def _size(self, name: str, row: list[int]) -> int:
        """Return how many bytes of a tensor belong to the block with this row."""
        column = dict(zip(COLUMNS, row, strict=True))
        width = SLOT_TYPES[self.manifest.dtype][1] * self.layout.contents.hidden
        slots = column["slot_count"]
        sizes = {"slots": width * slots, "scales": 4 * slots * self.manifest.slot_parts, "slot_tokens": 4 * slots}
        return (sizes | {CHECKSUMS: 4, "text": column["text_bytes"]})[name]


def open_stored(path: str | Path) -> StoredMemory:
    """Check a whole memory file and return it for adding documents.

    Raises:
        DataError: as `open_memory`, and for damaged blocks; the message names them.
    """
    path = Path(path)
    with _open(path) as file:
        stored = StoredMemory(path, _verify(path, file))
    damaged = _damaged(stored)
    if damaged:
        raise DataError(damage(path, damaged))
    return stored


def verify(path: str | Path) -> list[str]:
    """Check a whole memory file, slots included, and return the names of the blocks whose slots are damaged.

    Raises:
        DataError: as `open_memory`, and for slots that were altered together with their checksums.
    """
    path = Path(path)
    with _open(path) as file:
        return _damaged(StoredMemory(path, _verify(path, file)))


def damage(path: str | Path, blocks: Sequence[str]) -> str:
    """Return the message that some blocks of a file are damaged.

    >>> damage("a.fold", ["block 3 (a.txt, characters 10 to 20)"])
    'a.fold has 1 damaged block: block 3 (a.txt, characters 10 to 20); fold the document again'
    """
    named = ", ".join(blocks[:SHOWN]) + (f" and {len(blocks) - SHOWN} more" if len(blocks) > SHOWN else "")
    return f"{path} has {len(blocks)} damaged block{'s' * (len(blocks) > 1)}: {named}; fold the document again"


def read_manifest(path: str | Path) -> Manifest | None:
    """Return the manifest of a file without reading its data; None if the file is not a readable memory file."""
    path = Path(path)
    try:
        with _open(path) as file:
            return _header(path, file)[0]
    except DataError:
        return None


def open_memory(path: str | Path) -> Memory:
    """Check a memory file and open it; `Block.slots` are views of the mapped file (float32 copies for int8).

    The memory's `name` is derived from its content.  Slots are checked when they are first read, which raises a
    `DataError` for a damaged block; those of a file without checksums are checked here.

    Raises:
        DataError: if the file is missing, truncated, altered, not a memory file, or of another format version.
    """
    path = Path(path)
    with _open(path) as file:
        layout = _verify(path, file)
        # a private copy on write: torch wants memory that it could write to, the file stays as it is
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    manifest, blocks = layout.manifest, _blocks(path, mapped, layout)
    if not layout.has_checksums:
        for block in blocks:
            block.check()
    return Memory(
        name=layout.digest[:16],
        system=manifest.system,
        settings=manifest.settings,
        fingerprint=manifest.fingerprint,
        sources=manifest.sources,
        blocks=blocks,
        sha256=manifest.sha256,
        dtype=manifest.dtype,
    )


def describe(path: str | Path) -> dict[str, Any]:
    """Return the counts and sizes of a memory file: `bytes` of each part, and bytes per token of the documents.

    `bytes["slots"]` includes the scales of int8; `bytes["rest"]` is all but slots and text.  `kv_cache` is None unless
    the settings hold `kv_bytes_per_token`.  `checksums` says whether each block has one; slots that have are not read.

    Raises:
        DataError: as `open_memory`.
    """
    path = Path(path)
    with _open(path) as file:
        layout = _verify(path, file)
    manifest, contents = layout.manifest, layout.contents
    sizes = {tensor.name: tensor.end - tensor.start for tensor in tensors(manifest, contents)}
    slots, text = sizes.get("slots", 0) + sizes.get("scales", 0), sizes.get("text", 0)
    total, tokens = layout.data + sum(sizes.values()), max(contents.tokens, 1)
    return {
        "path": str(path),
        "name": layout.digest[:16],
        "system": manifest.system,
        "fingerprint": manifest.fingerprint,
        "settings": dict(manifest.settings),
        "documents": [{"source": s, "sha256": h} for s, h in zip(manifest.sources, manifest.sha256, strict=True)],
        "dtype": manifest.dtype if contents.hidden else None,
        "hidden": contents.hidden,
        "blocks": contents.blocks,
        "tokens": contents.tokens,
        "characters": contents.characters,
        "slots": contents.slots,
        "checksums": layout.has_checksums,
        "bytes": {
            "total": total,
            "slots": slots,
            "text": text,
            "table": sizes["table"],
            "checksums": sizes.get(CHECKSUMS, 0),
            "header": layout.data,
            "rest": total - slots - text,
        },
        "bytes_per_token": {
            "slots": slots / tokens,
            "without_text": (total - text) / tokens,
            "total": total / tokens,
            "kv_cache": manifest.settings.get("kv_bytes_per_token"),
        },
    }


def _open(path: Path) -> BinaryIO:
    """Open a file; what is not a file on disk is refused before it is opened, which could wait for ever."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise DataError(f"{path} is a pipe or a device; a memory file is read at many places, so copy it to a disk")
        return path.open("rb")
    except FileNotFoundError:
        raise DataError(f"no memory file at {path}; create one with memfold fold") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; give a memory file that can be read") from None


def _header(path: Path, file: BinaryIO) -> tuple[Manifest, Contents, bytes]:
    """Parse the header and check it against its digest; the third value is the header itself, as bytes."""
    size = os.fstat(file.fileno()).st_size
    head = file.read(8)
    length = int.from_bytes(head, "little")
    if len(head) < 8 or length > HEADER_LIMIT:
        raise DataError(f"{path} is not a memory file; give a file that memfold fold wrote")
    body = file.read(min(length, size))  # a forged length allocates no more than the file has
    if len(body) < length:
        short = body[:1] == b"{"  # as a memory file begins
        what = f"is truncated: {size} bytes, its header alone has {8 + length}" if short else "is not a memory file"
        raise DataError(f"{path} {what}; fold the document again")
    try:
        return *decode(body), body
    except DataError as error:
        raise DataError(f"{path} {error}") from None


def _verify(path: Path, file: BinaryIO) -> Layout:
    """Parse the header and check the rest of the file against it, except slots that have checksums."""
    manifest, contents, body = _header(path, file)
    size = os.fstat(file.fileno()).st_size
    placed, data = tensors(manifest, contents), 8 + len(body)
    expected = data + placed[-1].end
    if size != expected:
        what = "truncated" if size < expected else "longer than it was written"
        raise DataError(
            f"{path} is {what}: {size} bytes instead of the {expected} in its header; fold the document again"
        )
    layout = Layout(manifest, contents, data, hashlib.sha256(body).hexdigest())
    for tensor in placed:
        if tensor.name not in SLOTS or not layout.has_checksums:
            file.seek(data + tensor.start)
            if _hash(file, tensor.end - tensor.start) != contents.tensors[tensor.name]:
                raise DataError(f"{path} is damaged: its {tensor.name} part was altered {ALTERED}")
    file.seek(data)
    _check_table(path, file.read(placed[0].end), manifest, contents)
    return layout


def _damaged(stored: StoredMemory) -> list[str]:
    """Return the names of the blocks whose slots do not have their checksums; all blocks are read.

    Raises:
        DataError: if all have, but the slots do not have the hash of the file.
    """
    layout = stored.layout
    if not layout.has_checksums:
        return []  # `_verify` has read everything
    names: list[str] = []
    digests = {name: hashlib.sha256() for name in SLOTS if name in layout.contents.tensors}
    for index, (row, data) in enumerate(stored.blocks()):
        for name, digest in digests.items():
            digest.update(data[name])
        if checksum(data["slots"], data["scales"]) != int.from_bytes(data[CHECKSUMS], "little"):
            source, token_start, token_end, char_start, char_end, *_ = row
            block = Block(index, source, token_start, token_end, char_start, char_end)
            names.append(block.where(stored.manifest.sources[source]))
    for name, digest in digests.items():
        if not names and digest.hexdigest() != layout.contents.tensors[name]:
            raise DataError(f"{stored.path} is damaged: its {name} part was altered {ALTERED}")
    return names


def _hash(file: BinaryIO, size: int) -> str:
    digest = hashlib.sha256()
    while size:
        data = file.read(min(size, READ_BYTES))
        if not data:
            break  # it shrank meanwhile: the digest will not match
        digest.update(data)
        size -= len(data)
    return digest.hexdigest()


def _blocks(path: Path, mapped: mmap.mmap, layout: Layout) -> list[Block]:
    manifest, contents = layout.manifest, layout.contents
    placed = {tensor.name: tensor for tensor in tensors(manifest, contents)}
    table = np.frombuffer(mapped, "<i8", contents.blocks * len(COLUMNS), layout.data).reshape(-1, len(COLUMNS))
    slots = _tensor(mapped, layout, "slots", torch_type(manifest.dtype)) if contents.hidden else None
    scales = _tensor(mapped, layout, "scales", torch_type("float32")) if "scales" in placed else None
    lengths = _slot_tokens(path, mapped, layout) if "slot_tokens" in placed else None
    checks = _checksums(mapped, layout) if layout.has_checksums else None
    text = layout.data + placed["text"].start if "text" in placed else 0
    blocks, slot = [], 0
    for index, row in enumerate(table.tolist()):
        source, token_start, token_end, char_start, char_end, count, text_bytes = row
        own = slice(slot, slot + count)
        stored = StoredSegment(path, mapped, text, text + text_bytes, char_end - char_start) if text_bytes else None
        counts = None if lengths is None else tuple(lengths[own])
        block = Block(index, source, token_start, token_end, char_start, char_end, slot_tokens=counts, stored=stored)
        if slots is not None:
            where, check = block.where(manifest.sources[source]), None if checks is None else checks[index]
            held = StoredSlots(slots[own], None if scales is None else scales[own], check, path, where)
            block = replace(block, slots=held)
        blocks.append(block)
        slot, text = slot + count, text + text_bytes
    return blocks


def _check_table(path: Path, data: bytes, manifest: Manifest, contents: Contents) -> None:
    """Refuse a block table that does not agree with the manifest although its hash is right."""
    if not is_sound(np.frombuffer(data, "<i8").reshape(-1, len(COLUMNS)), manifest, contents):
        raise DataError(f"{path} is damaged: its block table does not agree with its manifest; fold the document again")


def _checksums(mapped: mmap.mmap, layout: Layout) -> list[int]:
    """Return the checksum of each block."""
    stored = next(tensor for tensor in tensors(layout.manifest, layout.contents) if tensor.name == CHECKSUMS)
    return list(np.frombuffer(mapped, "<u4", layout.contents.blocks, layout.data + stored.start).tolist())


def _slot_tokens(path: Path, mapped: mmap.mmap, layout: Layout) -> list[int]:
    """Return the number of tokens of each slot."""
    stored = next(tensor for tensor in tensors(layout.manifest, layout.contents) if tensor.name == "slot_tokens")
    lengths = np.frombuffer(mapped, "<i4", layout.contents.slots, layout.data + stored.start)
    if (lengths < 0).any():
        raise DataError(f"{path} is damaged: it has slots of fewer than 0 tokens; fold the document again")
    return list(lengths.tolist())


def _tensor(mapped: mmap.mmap, layout: Layout, name: str, dtype: torch.dtype) -> torch.Tensor:
    """Return a stored tensor as a view of the mapped file."""
    import torch

    stored = next(tensor for tensor in tensors(layout.manifest, layout.contents) if tensor.name == name)
    if stored.end == stored.start:  # torch.frombuffer refuses to view nothing
        return torch.empty(stored.shape, dtype=dtype)
    count = (stored.end - stored.start) // dtype.itemsize
    return torch.frombuffer(mapped, dtype=dtype, count=count, offset=layout.data + stored.start).view(stored.shape)
