"""Opens a file as a document: finds its format, and passes it to the reader of that format.

The content decides.  A suffix counts only where it promises a format that needs a reader of its own (`.pdf`, `.docx`,
`.html`), so source code, tables, logs and files without a suffix are plain text.  A pipe is read once and kept in RAM.
Left out: archives, images, and office formats other than .docx.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import BinaryIO

from memfold.core.document import Document
from memfold.core.errors import DocumentError
from memfold.readers.text import encoding_of, open_bytes

READABLE = "plain text, HTML, PDF or .docx"  # for error messages
EMPTY = "is empty; a document needs at least one character that is not a space"
TEXT = "memfold.readers.text:read_text"
HTML = "memfold.readers.html:read_html"
PDF = "memfold.readers.pdf:read_pdf"
WORD = "memfold.readers.word:read_word"
SUFFIXES = {".pdf": PDF, ".docx": WORD, ".html": HTML, ".htm": HTML, ".xhtml": HTML}
HEAD_BYTES = 4096
WORD_PART = "word/document.xml"
_HTML = re.compile(r"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html)\b", re.IGNORECASE | re.DOTALL)
# how files that look like text or like .docx begin, and what is said of them
REFUSED = (
    (b"PK\3\4", "is an archive or an office file other than .docx; unpack it, or save it as .docx or PDF"),
    (b"\xd0\xcf\x11\xe0", "is an office file of an old format or with a password; save it as .docx without a password"),
    (b"{\\rtf", "is an RTF file; save it as .docx or as plain text"),
    (b"\x1f\x8b", "is compressed with gzip; unpack it first"),
)
SPECIAL = (  # what can be at a path that is no file
    (stat.S_ISSOCK, "is a socket"),
    (stat.S_ISCHR, "is a device"),
    (stat.S_ISBLK, "is a device"),
)


def open_document(path: str | Path, source: str | None = None) -> Document:
    """Open a file, or a pipe, as a document after checking that it exists, can be read and contains text.

    `source` is the name of the document; it defaults to the file name.

    Raises:
        DocumentError: if the file cannot be used; the message has the path.
    """
    path = Path(path)
    mode = _mode(path)
    name = source or shown_name(Path(path.name))
    if stat.S_ISFIFO(mode):
        with open_bytes(path) as pipe:
            return read_stream(pipe, str(path), name)
    document = Document(name, path=path)
    if document.is_blank:
        raise DocumentError(path, EMPTY)
    return document


def read_stream(stream: BinaryIO, title: str, source: str) -> Document:
    """Read a stream of bytes, such as standard input, to its end as a document that is kept in RAM.

    Raises:
        DocumentError: if it cannot be used; the message begins with `title`.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stream"
        with path.open("wb") as file:
            shutil.copyfileobj(stream, file)
        try:
            text = "".join(read_file(path))
        except DocumentError as error:
            raise DocumentError(title, error.reason) from None
    if not text.strip():
        raise DocumentError(title, EMPTY)
    return Document(source, text=text)


def read_file(path: Path) -> Iterator[str]:
    """Yield the text of a file in parts.

    Raises:
        DocumentError: if the file cannot be read.
    """
    parts: Iterator[str] = resolve_name(format_of(path))(path)
    return parts


def format_of(path: Path) -> str:
    """Return the reader of a file, as `module:function`.

    Raises:
        DocumentError: if the file cannot be opened, or has a format that cannot be read.
    """
    with open_bytes(path) as file:
        head = file.read(HEAD_BYTES)
    if head.startswith(b"%PDF-"):
        return PDF
    if head.startswith(b"PK\3\4") and _is_word(path):
        return WORD
    if is_memory_head(head):
        raise DocumentError(
            path, "is a memory file, not a document; ask it or inspect it by its name, not through a pipe"
        )
    for beginning, reason in REFUSED:
        if head.startswith(beginning):
            raise DocumentError(path, reason)
    if path.suffix.lower() in SUFFIXES:
        return SUFFIXES[path.suffix.lower()]
    mark, encoding = encoding_of(head)
    return HTML if _HTML.match(head[mark:].decode(encoding, "ignore")) else TEXT


def is_pipe(path: Path) -> bool:
    """Return whether a path is a named pipe, or the end of a pipe such as `/dev/fd/63`."""
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def shown_name(path: Path) -> str:
    r"""Return a path with `/` between its parts; bytes that are not UTF-8 are written as escapes, such as `\xe9`."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def is_memory_head(head: bytes) -> bool:
    """Return whether a file that begins with these bytes is a memory file: the length of a JSON header comes first."""
    return head[8:9] == b"{" and b"\0" in head[:8]


def _mode(path: Path) -> int:
    """Return what is at a path, links followed; refuse what cannot be a document."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        what = "is a link to a missing file" if os.path.islink(path) else "does not exist"
        raise DocumentError(path, f"{what}; give an existing file ({READABLE})") from None
    except OSError as error:
        raise DocumentError(path, f"cannot be read: {error.strerror}; give a file that can be read") from None
    if stat.S_ISDIR(mode):
        raise DocumentError(path, f"is a folder; give a file ({READABLE})")
    for test, what in SPECIAL:
        if test(mode):
            raise DocumentError(path, f"{what}; give a file ({READABLE})")
    return mode


def _is_word(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return WORD_PART in archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError):
        return path.suffix.lower() == ".docx"  # whose reader says what is wrong
