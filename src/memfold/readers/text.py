"""Reads plain text of any kind in parts: prose, markup, source code, tables, subtitles, logs.

A byte order mark says which Unicode encoding a file has; without one it is UTF-8.  Other encodings are refused, because
a file does not say which one it has, and a wrong guess would alter names and numbers without a sign.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from memfold.core.errors import DocumentError

READ_BYTES = 1 << 16
# UTF-32 first: its little-endian mark begins with that of UTF-16
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
LONGEST_MARK = max(len(mark) for mark, _ in MARKS)


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading.

    Raises:
        DocumentError: if the file cannot be opened; the message gives the reason.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise DocumentError(path, f"cannot be read: {error.strerror}; give a file that can be read") from None


def encoding_of(head: bytes) -> tuple[int, str]:
    """Return the length of the byte order mark at the beginning of a file, and the encoding of what follows it."""
    return next(((len(mark), name) for mark, name in MARKS if head.startswith(mark)), (0, "utf-8"))


def read_text(path: Path) -> Iterator[str]:
    """Yield the text of a file in parts, without its byte order mark and with its line ends unchanged.

    Raises:
        DocumentError: if the file is binary or has another encoding; the message has the offset of the first such byte.
    """
    with open_bytes(path) as file:
        head = _read(file, path, LONGEST_MARK)
        offset, encoding = encoding_of(head)
        data = head[offset:] + _read(file, path, READ_BYTES)
        decoder = codecs.getincrementaldecoder(encoding)()
        while True:
            pending = len(decoder.getstate()[0])
            if encoding == "utf-8" and b"\0" in data:
                raise _binary(path, offset + data.index(0))
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise _invalid(path, offset - pending + error.start, error, encoding) from None
            if "\0" in text:
                raise _binary(path, offset)
            if text:
                yield text
            if not data:
                return
            offset += len(data)
            data = _read(file, path, READ_BYTES)


def _read(file: BinaryIO, path: Path, size: int) -> bytes:
    try:
        return file.read(size)
    except OSError as error:  # such as a disk that fails
        raise DocumentError(path, f"cannot be read: {error.strerror}; give a file that can be read") from None


def _binary(path: Path, offset: int) -> DocumentError:
    return DocumentError(
        path, f"is binary: byte 0x00 at offset {offset}; only text, HTML, PDF and .docx files can be read"
    )


def _invalid(path: Path, offset: int, error: UnicodeDecodeError, encoding: str) -> DocumentError:
    byte, name = error.object[error.start], encoding.upper().removesuffix("-LE").removesuffix("-BE")
    return DocumentError(
        path, f"is not {name}: byte 0x{byte:02x} at offset {offset}; convert it to UTF-8 first, for example with iconv"
    )
