"""Writes a memory file block by block.

A fold may take hours, so each block goes to disk as soon as it is made, into the folder `<path>.partial`.  At the end
the memory file is assembled there, flushed to disk, and renamed over the old file in one atomic step.  If the fold
stops before that, the old file is unchanged and the finished blocks stay in the folder; a resumed fold produces the
same bytes as an uninterrupted one.  A lock refuses a second writer of the same path (`memfold.memory.lock`).  Whether
the file may be replaced is for the caller to check (`memfold.memory.target`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from memfold.core.errors import DataError
from memfold.core.outputs import copy_rights
from memfold.core.types import Block, Memory
from memfold.memory.lock import WriteLock
from memfold.memory.manifest import (
    CHECKSUMS,
    COLUMNS,
    LARGEST,
    VERSIONS,
    Contents,
    Manifest,
    canonical,
    encode,
    stored,
    tensors,
)
from memfold.memory.partial import ROWS, WHOLE, PartialFolder, final_path
from memfold.memory.slots import checksum, to_bytes
from memfold.memory.table import compress

if TYPE_CHECKING:
    from torch import Tensor

COPY_BYTES = 1 << 20


class MemoryWriter:
    """Writes the memory file at `path`.  Use it in a `with` block: `add` each block, then `finish`.

    With `resume`, the blocks of an interrupted fold with the same manifest are kept: `complete[i]` is the number of
    blocks of document i, which the caller skips.  Otherwise, or if the manifest differs, the fold starts again.
    `folding` holds what the blocks depend on besides the manifest, which must be the same too: text can be added to a
    memory by another model, which cuts it into other blocks.  If the `with` block is left before `finish`, the finished
    blocks stay on disk.  `lock` is one that the caller holds; the writer otherwise takes and releases its own.

    Raises:
        DataError: if `path` cannot be written or the disk is full, here and in every method; if another process writes
            it.
    """

    def __init__(
        self,
        path: str | Path,
        manifest: Manifest,
        *,
        resume: bool = False,
        folding: Mapping[str, Any] | None = None,
        lock: WriteLock | None = None,
    ) -> None:
        self.path, self.manifest = Path(path), manifest
        if self.path.is_dir():
            raise DataError(f"cannot write {self.path}: it is a folder; choose another name")
        if not self.path.parent.is_dir():
            raise DataError(f"cannot write {self.path}: there is no folder {self.path.parent}; choose another place")
        identity = canonical(stored(manifest) | {"version": VERSIONS[-1], "folding": dict(folding or {})})
        self._partial: PartialFolder | None = None
        self._lock, self._own_lock = lock or WriteLock(self.path), lock is None
        self._before = _state(final_path(self.path))
        try:
            with self._disk():
                self._partial = PartialFolder(self._lock.folder, identity, len(COLUMNS) + 1, resume=resume)
            # document -> where its next block begins, in tokens and characters
            self._ends = {row[0]: (row[2], row[4]) for row in self._partial.rows}
        except BaseException:
            self._release()
            raise

    @property
    def complete(self) -> tuple[int, ...]:
        """How many blocks of each document are written."""
        counts = Counter(row[0] for row in self._partial.rows) if self._partial else Counter[int]()
        return tuple(counts[source] for source in range(len(self.manifest.sources)))

    def add(self, block: Block) -> None:
        """Append one block to the memory; its `index` is ignored.

        Raises:
            DataError: if the block does not fit the manifest; nothing is written then.
        """
        partial = self._open()
        hidden = partial.rows[0][-1] if partial.rows else None
        row, data = _encode(block, self.manifest, hidden)
        token, character = self._ends.get(block.source, (0, 0))
        if (block.token_start, block.char_start) != (token, character):
            raise DataError(
                f"block of document {block.source} begins at token {block.token_start} and character "
                f"{block.char_start}; the one before it ends at {token} and {character}, and nothing may lie between"
            )
        self._append(partial, row, data)

    def copy(self, row: tuple[int, ...], data: dict[str, bytes]) -> None:
        """Append a block in the form in which another memory file with the same settings and dtype stores it."""
        self._append(self._open(), row, data)

    def finish(self) -> None:
        """Assemble the memory file, put it in place of the old one, and remove the partial folder.

        Raises:
            DataError: if no block was written.
        """
        partial = self._open()
        if not partial.rows:
            raise DataError(f"no blocks for {self.path}; a memory needs at least one")
        final = final_path(self.path)
        with self._disk():
            partial.close()
            _assemble(partial, self.manifest)
            self._check_unchanged(final)
            copy_rights(final, partial.path / WHOLE)
            os.replace(partial.path / WHOLE, final)
        with contextlib.suppress(OSError):  # the memory file is complete, whatever happens to the partial folder
            _flush_folder(final.parent)
            partial.remove()
        self._release()

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
        self._release()

    def _append(self, partial: PartialFolder, row: tuple[int, ...], data: dict[str, bytes]) -> None:
        with self._disk():
            partial.append(row, data)
        self._ends[row[0]] = row[2], row[4]

    def _release(self) -> None:
        if self._own_lock:
            self._lock.release()

    def _check_unchanged(self, final: Path) -> None:
        """Refuse to finish where something else wrote to the file or to the partial folder meanwhile.

        Raises:
            DataError: with what is kept.
        """
        if not self._lock.is_held:
            raise DataError(f"{self._lock.folder} was removed or replaced during the fold; fold again")
        if _state(final) not in (None, self._before):
            raise DataError(
                f"{self.path} was written by another program during the fold and is left as it is; move it and fold "
                f"again{self._kept()}"
            )

    def _kept(self) -> str:
        """What a failed fold leaves, as the end of a message."""
        count, folder = sum(self.complete), self._lock.folder
        if not count or not (folder / ROWS).exists():
            return ""
        blocks = "1 finished block is" if count == 1 else f"{count} finished blocks are"
        return f" ({blocks} kept in {folder.name})"

    def _open(self) -> PartialFolder:
        if self._partial is None or not self._partial.is_open:
            raise DataError(f"the writer of {self.path} is closed; resume it with a new writer")
        return self._partial

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        """Turn an `OSError` into a `DataError` that says what is kept and what to do."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            advice = "free some space" if full else "choose a writable path"
            unchanged = "; the old file is unchanged" if self._before else ""
            raise DataError(
                f"cannot write {self.path}: {error.strerror or error}; {advice} and fold again{unchanged}{self._kept()}"
            ) from error


def save_memory(
    memory: Memory,
    path: str | Path,
    *,
    dtype: str = "bfloat16",
    keep_text: bool = True,
    lock: WriteLock | None = None,
) -> None:
    """Write a whole memory to a file, in place of one that is there; `dtype` is the dtype of the stored slots.

    Raises:
        DataError: if the memory does not fit the format, or the file cannot be written.
    """
    manifest = Manifest(
        memory.system, memory.settings, memory.fingerprint, memory.sources, memory.sha256, dtype, keep_text
    )
    with MemoryWriter(path, manifest, lock=lock) as writer:
        for block in memory.blocks:
            writer.add(block)
        writer.finish()


def _encode(block: Block, manifest: Manifest, hidden: int | None) -> tuple[tuple[int, ...], dict[str, bytes]]:
    """A block as a row (the table's columns, then the slot size) and data; `hidden` is the size of earlier slots."""
    if not 0 <= block.source < len(manifest.sources):
        raise DataError(f"block of document {block.source}; the memory has documents 0 to {len(manifest.sources) - 1}")
    for start, end in ((block.token_start, block.token_end), (block.char_start, block.char_end)):
        if not 0 <= start <= end < LARGEST:
            raise DataError(f"block from {start} to {end}; a block must not start before 0 or end before its start")
    values = block.slots
    count, size = (0, 0) if values is None else _slot_shape(block.index, values)
    if hidden not in (None, size):
        raise DataError(f"block with slots of {size} values after slots of {hidden}; all slots must have one size")
    if size % manifest.slot_parts:
        raise DataError(f"slots of {size} values cannot be divided into {manifest.slot_parts} equal parts")
    slots, scales = (b"", b"") if values is None else to_bytes(values, manifest.dtype, manifest.slot_parts)
    lengths = block.slot_tokens or ()
    if lengths and len(lengths) != count:
        raise DataError(f"block {block.index} has {count} slots and the token counts of {len(lengths)}")
    slot_tokens = np.array(lengths, "<i4").tobytes()
    text = _compress(block) if manifest.keep_text else b""
    row = (block.source, block.token_start, block.token_end, block.char_start, block.char_end, count, len(text), size)
    check = b"" if values is None else checksum(slots, scales).to_bytes(4, "little")
    return row, {"slots": slots, "scales": scales, "slot_tokens": slot_tokens, CHECKSUMS: check, "text": text}


def _slot_shape(index: int, slots: Tensor) -> tuple[int, int]:
    """Number and size of the slots of a block."""
    if slots.dim() != 2 or slots.shape[1] < 1:
        raise DataError(f"block {index} has slots of shape {tuple(slots.shape)}; allowed: [slots, size]")
    return slots.shape[0], slots.shape[1]


def _compress(block: Block) -> bytes:
    """The text of one block, compressed on its own so that it can be read on its own; empty if there is none."""
    text = block.read()
    if not text:
        return b""
    if len(text) != block.char_end - block.char_start:
        raise DataError(
            f"block {block.index} has {len(text)} characters of text for {block.char_start} to {block.char_end}; "
            "they must agree"
        )
    try:
        return compress(text)
    except UnicodeEncodeError as error:
        wrong = block.char_start + error.start
        raise DataError(f"character {wrong} is an unpaired surrogate; only valid UTF-8 can be stored") from None


def _assemble(partial: PartialFolder, manifest: Manifest) -> None:
    """Write the whole file into the partial folder, `COPY_BYTES` at a time."""
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
    recorded = (partial.path / "slot_tokens").stat().st_size // 4
    if recorded not in (0, total["slot_count"]):
        raise DataError(f"{recorded} of {total['slot_count']} slots have token counts; all must have one, or none")
    if recorded:
        hashes["slot_tokens"] = ""  # reserves its place; the hash follows
    if (partial.path / CHECKSUMS).stat().st_size:
        hashes[CHECKSUMS] = ""
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


def _state(path: Path) -> tuple[int, ...] | None:
    """Which file is at a path, and when it was last written; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _flush_folder(folder: Path) -> None:
    """Make a rename in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
