"""Turns user input (a file, a folder, a list of paths, or text) into documents, and recognises memory files.

Reading and checking the content of a document is in `memfold.core.document`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from memfold.core.document import READABLE, SUFFIXES, Document, open_document
from memfold.core.errors import DataError

Source = str | Path | Sequence[str | Path]
NAMED = tuple(suffix for suffix in SUFFIXES if suffix)  # suffixes of document files
MEMORY_SUFFIX = ".fold"
LONGEST_PATH = 250  # characters; a longer string is text


def documents(source: Source) -> list[Document]:
    """Open the documents of a path, a folder (all readable files in it, sorted by name), a list of these, or a text.

    A string is taken as text if it contains a line break, is longer than a path, or contains a space but is neither an
    existing path nor the name of a document.

    Raises:
        DataError: for a path that is missing, empty, binary or in a format that cannot be read.
    """
    if isinstance(source, str) and _is_text(source):
        if not source.strip():
            raise DataError("the text is empty; a document needs at least one character that is not a space")
        return [Document("text", text=source)]
    paths = [source] if isinstance(source, str | Path) else list(source)
    opened = [document for path in paths for document in _documents_at(Path(path).expanduser())]
    if not opened:
        raise DataError(f"no documents; name at least one file ({READABLE})")
    return opened


def is_memory(path: Path) -> bool:
    """Return whether a path is a memory file, judging by its suffix and first bytes."""
    if path.suffix.lower() == MEMORY_SUFFIX:
        return True
    if path.suffix.lower() in NAMED or not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and b"\0" in head[:8]


def _documents_at(path: Path) -> list[Document]:
    if not path.is_dir():
        return [open_document(path)]
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and file.suffix.lower() in NAMED]
    if not files:
        raise DataError(f"no readable file ({', '.join(NAMED)}) in the folder {path}; name a folder with text")
    return [open_document(file, source=file.relative_to(path).as_posix()) for file in files]


def _is_text(source: str) -> bool:
    if "\n" in source or not source.strip() or len(source) > LONGEST_PATH:
        return True
    has_document_suffix = Path(source).suffix.lower() in NAMED
    return " " in source and not has_document_suffix and not Path(source).expanduser().exists()
