"""Writing a memory file block by block.

A fold may take hours and any length of document, so blocks go to disk as they come, into the folder `<path>.partial`,
and the memory file appears at once at the end: assembled there, flushed to disk, renamed over the old file.  Whatever
stops the fold before that leaves the old file alone and the finished blocks in the folder, and a resumed fold ends in
the same bytes as an unbroken one.
Left out: two writers of one path at the same time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memfold.core.errors import DataError
from memfold.core.types import Block, Memory
from memfold.memory.manifest import COLUMNS, VERSION, Contents, Manifest, canonical, encode, tensors
from memfold.memory.partial import WHOLE, PartialFolder
from memfold.memory.slots import to_bytes

COPY_BYTES = 1 << 20


class MemoryWriter:
    """Writes the memory file at `path`.  Use it in a `with` block: `add` each block, then `finish`.

    With `resume`, blocks left by an interrupted fold of the same manifest are kept: `complete[i]` says how many of
    document i there are, for the caller to skip.  Otherwise, or when the manifest differs, the fold starts afresh.
    Leaving the `with` block before `finish` keeps the finished blocks for later.

    Raises:
        DataError: when the place cannot be written to, or the disk is full; here and in every method.
    """

    def __init__(self, path: str | Path, manifest: Manifest, *, resume: bool = False) -> None:
        self.path, self.manifest = Path(path), manifest
        if self.path.is_dir() or not self.path.parent.is_dir():
            raise DataError(f"cannot write {self.path}: not a file in an existing folder; choose another place")
        identity = canonical(asdict(manifest) | {"version": VERSION})
        self._partial: PartialFolder | None = None
        with self._disk():
            folder = self.path.with_name(self.path.name + ".partial")
            self._partial = PartialFolder(folder, identity, len(COLUMNS) + 1, resume=resume)

    @property
    def complete(self) -> tuple[int, ...]:
        """How many blocks of each document are written."""
        counts = Counter(row[0] for row in self._partial.rows) if self._partial else Counter[int]()
        return tuple(counts[source] for source in range(len(self.manifest.sources)))

    def add(self, block: Block) -> None:
        """Write one block; its place in the memory is the order of adding, whatever its `index`.

        Raises:
            DataError: for a block that does not fit the manifest; nothing is written then.
        """
        partial = self._open()
        hidden = partial.rows[0][-1] if partial.rows else None
        row, data = _encode(block, self.manifest, hidden)
        with self._disk():
            partial.append(row, data)

    def copy(self, row: tuple[int, ...], data: dict[str, bytes]) -> None:
        """Write a block as another memory file of the same settings and dtype stores it."""
        partial = self._open()
        with self._disk():
            partial.append(row, data)

    def finish(self) -> None:
        """Assemble the memory file, put it in place of the old one, and remove the partial folder.

        Raises:
            DataError: for a memory without blocks.
        """
        partial = self._open()
        if not partial.rows:
            raise DataError(f"no blocks for {self.path}; a memory needs at least one")
        with self._disk():
            partial.close()
            _assemble(partial, self.manifest)
            os.replace(partial.path / WHOLE, self.path)
        with contextlib.suppress(OSError):  # the memory file is in its place
            _flush_folder(self.path.parent)
            partial.remove()

    def __enter__(self) -> MemoryWriter:
        return self

    def __exit__(self, *error: object) -> None:
        if self._partial is None:
            return
        self._partial.close()
        with contextlib.suppress(OSError):
            (self._partial.path / WHOLE).unlink(missing_ok=True)
            if not self._partial.rows:
                self._partial.remove()

    def _open(self) -> PartialFolder:
        if self._partial is None or not self._partial.is_open:
            raise DataError(f"the writing of {self.path} has ended; resume it with a new writer")
        return self._partial

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        """Turn what the disk says into one line that says what is kept and what to do."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            todo = "free some space" if full else "choose a place that can be written"
            raise DataError(
                f"cannot write {self.path}: {error.strerror or error}; {todo} and fold again (an older file there is "
                f"unchanged, {sum(self.complete)} finished blocks are kept in {self.path.name}.partial)"
            ) from error


def save_memory(memory: Memory, path: str | Path, *, dtype: str = "bfloat16", keep_text: bool = True) -> None:
    """Write a whole memory to a file; `dtype` is that of the stored slots.

    Raises:
        DataError: when the memory does not fit the format, or the file cannot be written.
    """
    manifest = Manifest(
        memory.system, memory.settings, memory.fingerprint, memory.sources, memory.sha256, dtype, keep_text
    )
    with MemoryWriter(path, manifest) as writer:
        for block in memory.blocks:
            writer.add(block)
        writer.finish()


def _encode(block: Block, manifest: Manifest, hidden: int | None) -> tuple[tuple[int, ...], dict[str, bytes]]:
    """A block as a row (the table's columns, then the width of its slots) and data; `hidden` is the earlier width."""
    if not 0 <= block.source < len(manifest.sources):
        raise DataError(f"block of document {block.source}; the memory has documents 0 to {len(manifest.sources) - 1}")
    for start, end in ((block.token_start, block.token_end), (block.char_start, block.char_end)):
        if not 0 <= start <= end < 1 << 48:
            raise DataError(f"block from {start} to {end}; a block ends at or after its start, from 0")
    count, width = _slot_shape(block, manifest.ratio)
    if hidden not in (None, width):
        raise DataError(f"block with slots of {width} values after slots of {hidden}; all of a memory have one width")
    slots, scales = (b"", b"") if block.slots is None else to_bytes(block.slots, manifest.dtype)
    text = _compress(block) if manifest.keep_text else b""
    row = (block.source, block.token_start, block.token_end, block.char_start, block.char_end, count, len(text), width)
    return row, {"slots": slots, "scales": scales, "text": text}


def _slot_shape(block: Block, ratio: int | None) -> tuple[int, int]:
    """Number and width of a block's slots, checked against what a reader will derive from the ratio."""
    if ratio is None or block.slots is None:
        if ratio is None and block.slots is None:
            return 0, 0
        raise DataError(f"block {block.index}: slots and settings['ratio'] = {ratio} go together; give both or neither")
    expected = -(-block.token_count // ratio)
    if block.slots.dim() != 2 or len(block.slots) != expected:
        raise DataError(
            f"block {block.index} has slots of shape {tuple(block.slots.shape)}; "
            f"{block.token_count} tokens at ratio {ratio} make [{expected}, hidden]"
        )
    if block.starts and block.starts != tuple(range(block.token_start, block.token_end, ratio)):
        raise DataError(f"block {block.index}: a slot does not start every {ratio} tokens; the file cannot hold that")
    return expected, block.slots.shape[1]


def _compress(block: Block) -> bytes:
    """The text of a block on its own, so that it can be read alone; nothing for a block without text."""
    text = block.read()
    if not text:
        return b""
    if len(text) != block.char_end - block.char_start:
        raise DataError(
            f"block {block.index} has {len(text)} characters of text for {block.char_start} to {block.char_end}; "
            "they must agree"
        )
    try:
        return zlib.compress(text.encode(), 6)
    except UnicodeEncodeError as error:
        at = block.char_start + error.start
        raise DataError(f"character {at} is half a surrogate pair; only text that has UTF-8 can be stored") from None


def _assemble(partial: PartialFolder, manifest: Manifest) -> None:
    """Write the whole file into the partial folder, a stretch at a time."""
    table = np.array([row[:-1] for row in partial.rows], "<i8")
    contents = _contents(partial, manifest, table)
    with (partial.path / WHOLE).open("wb") as whole:
        whole.write(encode(manifest, contents))
        whole.write(table.tobytes())
        for tensor in tensors(manifest, contents)[1:]:
            with (partial.path / tensor.name).open("rb") as part:
                shutil.copyfileobj(part, whole, COPY_BYTES)
        whole.flush()
        os.fsync(whole.fileno())


def _contents(partial: PartialFolder, manifest: Manifest, table: NDArray[np.int64]) -> Contents:
    total = dict(zip(COLUMNS, table.sum(0).tolist(), strict=True))
    hashes = {"table": hashlib.sha256(table.tobytes()).hexdigest()}
    contents = Contents(
        blocks=len(table),
        tokens=total["token_end"] - total["token_start"],
        characters=total["char_end"] - total["char_start"],
        slots=total["slot_count"],
        hidden=partial.rows[0][-1],
        text_bytes=total["text_bytes"],
        tensors=hashes,
    )
    for tensor in tensors(manifest, contents)[1:]:
        with (partial.path / tensor.name).open("rb") as part:
            hashes[tensor.name] = hashlib.file_digest(part, "sha256").hexdigest()
    return contents


def _flush_folder(folder: Path) -> None:
    """Make a rename in a folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
