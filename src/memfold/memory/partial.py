"""The folder in which a memory file is built up, and the recovery of its complete blocks after an interruption.

Each block is appended to the data files and then committed by a row with a checksum.  A killed process or a full disk
can only leave an incomplete block at the end, which `PartialFolder` truncates when it is opened again.  What the bytes
mean is defined by `writer`.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from memfold.core.errors import DataError
from memfold.core.lock import LOCK

DATA = ("slots", "scales", "slot_tokens", "checksums", "text")
IDENTITY, ROWS, WHOLE = "manifest.json", "rows", "memory"
NEW_IDENTITY = f"{IDENTITY}.new"
BLOCKS = (WHOLE, ROWS, *DATA)


class PartialFolder:
    """Committed blocks on disk: a row of `width` integers for each, and bytes in every file of `DATA`.

    With `resume`, blocks written under the same `identity` are kept and listed in `rows`; otherwise the folder is
    emptied.

    Raises:
        DataError: if `path` is a folder that was not made by a fold.
        OSError: if reading or writing fails, here and in every method.
    """

    def __init__(self, path: Path, identity: str, width: int, *, resume: bool) -> None:
        self.path = path
        self.rows: list[tuple[int, ...]] = []
        # the row, the number of bytes in each data file, and a checksum of both and of the bytes
        self._layout = struct.Struct(f"<{width + len(DATA)}qI")
        self._files: dict[str, BinaryIO] = {}
        identity_file = path / IDENTITY
        refuse_foreign(path)
        if resume and identity_file.is_file() and identity_file.read_bytes() == identity.encode():
            self._restore()
        else:
            self.remove()
            path.mkdir(exist_ok=True)
            _write_whole(identity_file, identity)
        self._files = {name: (path / name).open("ab") for name in (*DATA, ROWS)}

    @property
    def is_open(self) -> bool:
        """Whether blocks can be appended: the folder was not closed and no write has failed."""
        return bool(self._files)

    def append(self, row: tuple[int, ...], data: dict[str, bytes]) -> None:
        """Write a block and commit it; if this fails, the folder has to be opened again."""
        files, self._files = self._files, {}
        with contextlib.ExitStack() as stack:
            for file in files.values():
                stack.callback(_close, file)
            for name in DATA:
                files[name].write(data[name])
                files[name].flush()
            files[ROWS].write(self._pack(row, data))
            files[ROWS].flush()
            stack.pop_all()
        self._files = files
        self.rows.append(row)

    def close(self) -> None:
        """Close the files; committed blocks stay."""
        files, self._files = self._files, {}
        for file in files.values():
            _close(file)

    def remove(self) -> None:
        """Remove the files of the fold, and the folder if nothing else is in it."""
        for name in (*BLOCKS, IDENTITY):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def _restore(self) -> None:
        """List the committed blocks up to the first incomplete one, and truncate the rest."""
        sizes = dict.fromkeys((*DATA, ROWS), 0)
        for name in sizes:
            (self.path / name).touch()
        for row, data in self._committed():
            self.rows.append(row)
            sizes = {name: sizes[name] + len(data.get(name, b"")) for name in sizes}
        sizes[ROWS] = len(self.rows) * self._layout.size
        for name, size in sizes.items():
            os.truncate(self.path / name, size)

    def _committed(self) -> Iterator[tuple[tuple[int, ...], dict[str, bytes]]]:
        with contextlib.ExitStack() as stack:
            files = {name: stack.enter_context((self.path / name).open("rb")) for name in (*DATA, ROWS)}
            left = {name: os.fstat(files[name].fileno()).st_size for name in DATA}
            while len(packed := files[ROWS].read(self._layout.size)) == self._layout.size:
                values = self._layout.unpack(packed)[:-1]
                sizes = dict(zip(DATA, values[-len(DATA) :], strict=True))
                if any(not 0 <= sizes[name] <= left[name] for name in DATA):
                    return
                data = {name: files[name].read(sizes[name]) for name in DATA}
                left = {name: left[name] - sizes[name] for name in DATA}
                row = values[: -len(DATA)]
                if self._pack(row, data) != packed:
                    return
                yield row, data

    def _pack(self, row: tuple[int, ...], data: dict[str, bytes]) -> bytes:
        """The row that commits a block."""
        values = (*row, *(len(data[name]) for name in DATA))
        checksum = zlib.crc32(self._layout.pack(*values, 0))
        for name in DATA:
            checksum = zlib.crc32(data[name], checksum)
        return self._layout.pack(*values, checksum)


@dataclass(frozen=True)
class Interrupted:
    """What an interrupted fold left: the names and hashes of its documents."""

    sources: tuple[str, ...]
    sha256: tuple[str, ...]


def final_path(path: Path) -> Path:
    """The file that is written: the one that a link leads to, so that the link stays a link."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def partial_folder(path: Path) -> Path:
    """Where a fold into this file keeps its blocks: beside the file that is written."""
    file = final_path(path)
    return file.with_name(file.name + ".partial")


def interrupted(folder: Path) -> Interrupted | None:
    """The fold whose blocks are in a folder; None where there is no block.

    Raises:
        DataError: if the folder was not made by a fold.
        OSError: if it cannot be read.
    """
    refuse_foreign(folder)
    rows = folder / ROWS
    if not rows.is_file() or not rows.stat().st_size:
        return None
    return _fold_of((folder / IDENTITY).read_bytes())


def discard_empty(folder: Path) -> None:
    """Remove what a fold left that was stopped before its first block."""
    rows = folder / ROWS
    if rows.is_file() and rows.stat().st_size:
        return
    for name in (*BLOCKS, IDENTITY, NEW_IDENTITY):
        (folder / name).unlink(missing_ok=True)


def refuse_foreign(folder: Path) -> None:
    """Refuse a folder with files that no fold made.

    Raises:
        DataError: with its name.
    """
    if not folder.is_dir():
        return
    own = True
    with contextlib.suppress(FileNotFoundError):  # another fold ends at this moment
        names = {entry.name for entry in folder.iterdir()} - {LOCK, NEW_IDENTITY}
        made = names <= {*BLOCKS, IDENTITY} and IDENTITY in names
        own = not names or (made and _fold_of((folder / IDENTITY).read_bytes()) is not None)
    if not own:
        raise DataError(f"{folder} is a folder with other files in it; move it or choose another name")


def _fold_of(identity: bytes) -> Interrupted | None:
    """The documents of a fold, from the file that says which fold it is; None if it is another file."""
    try:
        stored = json.loads(identity)
        return Interrupted(tuple(map(str, stored["sources"])), tuple(map(str, stored["sha256"])))
    except (ValueError, KeyError, TypeError):
        return None


def _write_whole(path: Path, text: str) -> None:
    """Write a file so that it is never there by half."""
    new = path.with_name(NEW_IDENTITY)
    try:
        new.write_text(text, encoding="utf-8")
        new.rename(path)
    finally:
        new.unlink(missing_ok=True)


def _close(file: BinaryIO) -> None:
    """Close a file without repeating the error of a failed write, which was reported already."""
    with contextlib.suppress(OSError):
        file.close()
