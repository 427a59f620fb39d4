"""The folder in which an unfinished memory file grows, and what a resumed fold can trust of it.

Data files are appended to block by block; a row with a checksum seals each block after its data.  A process that is
killed, or a disk that fills up, can only leave a torn end, which `PartialFolder` cuts off when it is opened again.
Left out: what the bytes mean (`writer`).
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from memfold.core.errors import DataError

DATA = ("slots", "scales", "text")
IDENTITY, ROWS, WHOLE = "manifest.json", "rows", "memory"


class PartialFolder:
    """Sealed blocks on disk: each a row of whole numbers, and bytes for every file of `DATA`.

    With `resume`, rows written under the same `identity` are kept and listed in `rows`; else the folder is emptied.

    Raises:
        DataError: when `path` is a folder that no fold has made.
        OSError: when the disk refuses, here and in every method.
    """

    def __init__(self, path: Path, identity: str, width: int, *, resume: bool) -> None:
        self.path = path
        self.rows: list[tuple[int, ...]] = []
        # the row, bytes in each data file, checksum of all of it
        self._layout = struct.Struct(f"<{width + len(DATA)}qI")
        self._files: dict[str, BinaryIO] = {}
        known = path / IDENTITY
        if path.is_dir() and any(path.iterdir()) and not known.is_file():
            raise DataError(f"{path} is a folder with other files in it; move it or choose another name")
        if resume and known.is_file() and known.read_bytes() == identity.encode():
            self._restore()
        else:
            self.remove()
            path.mkdir(exist_ok=True)
            known.write_text(identity)
        self._files = {name: (path / name).open("ab") for name in (*DATA, ROWS)}

    @property
    def is_open(self) -> bool:
        """Whether blocks can be appended: no write has failed half-way, and the folder was not closed."""
        return bool(self._files)

    def append(self, row: tuple[int, ...], data: dict[str, bytes]) -> None:
        """Write a block and seal it; interrupted half-way, the folder must be opened anew."""
        files, self._files = self._files, {}
        with contextlib.ExitStack() as stack:
            for file in files.values():
                stack.callback(_close, file)
            for name in DATA:
                files[name].write(data[name])
                files[name].flush()
            files[ROWS].write(self._seal(row, data))
            files[ROWS].flush()
            stack.pop_all()
        self._files = files
        self.rows.append(row)

    def close(self) -> None:
        """Close the files; what is sealed stays."""
        files, self._files = self._files, {}
        for file in files.values():
            _close(file)

    def remove(self) -> None:
        """Remove our files, and the folder unless somebody else's file is in it."""
        for name in (WHOLE, ROWS, *DATA, IDENTITY):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def _restore(self) -> None:
        """List the sealed blocks up to the first torn one, and cut off the rest."""
        sizes = dict.fromkeys((*DATA, ROWS), 0)
        for name in sizes:
            (self.path / name).touch()
        for row, data in self._sealed():
            self.rows.append(row)
            sizes = {name: sizes[name] + len(data.get(name, b"")) for name in sizes}
        sizes[ROWS] = len(self.rows) * self._layout.size
        for name, size in sizes.items():
            os.truncate(self.path / name, size)

    def _sealed(self) -> Iterator[tuple[tuple[int, ...], dict[str, bytes]]]:
        with contextlib.ExitStack() as stack:
            files = {name: stack.enter_context((self.path / name).open("rb")) for name in (*DATA, ROWS)}
            left = {name: os.fstat(files[name].fileno()).st_size for name in DATA}
            while len(sealed := files[ROWS].read(self._layout.size)) == self._layout.size:
                values = self._layout.unpack(sealed)[:-1]
                wanted = dict(zip(DATA, values[-len(DATA) :], strict=True))
                if any(not 0 <= wanted[name] <= left[name] for name in DATA):
                    return
                data = {name: files[name].read(wanted[name]) for name in DATA}
                left = {name: left[name] - wanted[name] for name in DATA}
                row = values[: -len(DATA)]
                if self._seal(row, data) != sealed:
                    return
                yield row, data

    def _seal(self, row: tuple[int, ...], data: dict[str, bytes]) -> bytes:
        values = (*row, *(len(data[name]) for name in DATA))
        checksum = zlib.crc32(self._layout.pack(*values, 0))
        for name in DATA:
            checksum = zlib.crc32(data[name], checksum)
        return self._layout.pack(*values, checksum)


def _close(file: BinaryIO) -> None:
    """Close a file whose last write may have failed; that was reported, and closing would only repeat it."""
    with contextlib.suppress(OSError):
        file.close()
