"""What a user names, as documents: a file, a folder of them, several, or text itself; and what is a memory file.

Left out: reading and checking, which is the document's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from memfold.core.document import READABLE, SUFFIXES, Document, open_document
from memfold.core.errors import DataError

Source = str | Path | Sequence[str | Path]
NAMED = tuple(suffix for suffix in SUFFIXES if suffix)  # the names that say that a file is a document
MEMORY_SUFFIX = ".fold"
LONGEST_PATH = 250


def documents(source: Source) -> list[Document]:
    """The documents of a path, a folder (its readable files, by name), a list of them, or of text itself.

    A string is text when it has a line break, or a space without the name of a document.

    Raises:
        DataError: for a path that is missing, empty, binary or of a kind that cannot be read.
    """
    if isinstance(source, str) and _is_text(source):
        if not source.strip():
            raise DataError("the text is empty; a document needs at least one character that is not a space")
        return [Document("text", text=source)]
    paths = [source] if isinstance(source, str | Path) else list(source)
    found = [document for path in paths for document in _documents_at(Path(path).expanduser())]
    if not found:
        raise DataError(f"no documents; name at least one file ({READABLE})")
    return found


def is_memory(path: Path) -> bool:
    """Whether a path names a memory file, as far as its name and first bytes tell."""
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
    named = Path(source).suffix.lower() in NAMED
    return " " in source and not named and not Path(source).expanduser().exists()
