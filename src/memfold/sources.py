"""Turns user input (a file, a folder, a list of paths, or text) into documents, and recognises memory files.

Reading and checking the content of a document is in `memfold.core.document`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from memfold.core.arguments import check_path, check_type, strings
from memfold.core.document import READABLE, SUFFIXES, Document, open_document
from memfold.core.errors import DataError

Source = str | Path | Sequence[str | Path]
Texts = Sequence[str] | Mapping[str, str]
NAMED = tuple(suffix for suffix in SUFFIXES if suffix)  # suffixes of document files
MEMORY_SUFFIX = ".fold"
LONGEST_PATH = 250  # characters; a longer string is text


def documents(source: Source) -> list[Document]:
    """Open the documents of a path, a folder (all readable files in it, sorted by name), a list of these, or a text.

    A string is taken as text if it contains a line break, is longer than a path, or contains a space but is neither an
    existing path nor the name of a document.

    Raises:
        DataError: for a path that is missing, empty, binary or in a format that cannot be read.
        TypeError: for anything but a path, a list of paths, or a text.
    """
    if isinstance(source, str) and _is_text(source):
        if not source.strip():
            raise DataError("the text is empty; a document needs at least one character that is not a space")
        return [Document("text", text=source)]
    paths = [source] if isinstance(source, str | os.PathLike) else _paths(source)
    opened = [document for path in paths for document in _documents_at(Path(path).expanduser())]
    if not opened:
        raise DataError(f"no documents; name at least one file ({READABLE})")
    return opened


def text_documents(texts: Texts, first: int = 1) -> list[Document]:
    """Return texts as documents: those of a mapping under its keys, those of a list as `text 1`, `text 2`, and so on.

    `first` is the number of the first text of a list.

    Raises:
        DataError: for a text without a character that is not a space, or no texts.
        TypeError: for anything but strings.
    """
    if isinstance(texts, Mapping):
        named = dict(zip(strings("names of texts", list(texts)), strings("texts", list(texts.values())), strict=True))
    else:
        named = {f"text {number}": text for number, text in enumerate(strings("texts", texts), first)}
    if not named:
        raise DataError("no texts; give at least one")
    for name, text in named.items():
        if not text.strip():
            raise DataError(f"{name} is empty; a document needs at least one character that is not a space")
    return [Document(name, text=text) for name, text in named.items()]


def given_documents(source: Source | None, texts: Texts | None, first: int = 1) -> list[Document]:
    """Return the documents of the one argument that is given; `first` is the number of the first unnamed text."""
    if (source is None) == (texts is None):
        raise TypeError(
            "source must be a path, a list of paths, or a text, unless texts are given; give one of the two"
        )
    return text_documents(texts, first) if texts is not None else documents(source)  # type: ignore[arg-type]


def is_memory(path: Path) -> bool:
    """Return whether a path is a memory file, judging by its suffix and first bytes."""
    if path.suffix.lower() == MEMORY_SUFFIX:
        return True
    if path.suffix.lower() in NAMED or not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and b"\0" in head[:8]


def _paths(source: Sequence[str | Path]) -> Sequence[str | Path]:
    """Return a list of paths after checking that it is one."""
    check_type("source", source, (list, tuple), "a path (str or Path), a list of paths, or a text")
    for number, path in enumerate(source):
        check_path(f"source[{number}]", path)
        if isinstance(path, str) and _is_text(path):
            raise DataError(f"source[{number}] is a text, not a path; give a list of texts as texts=[...]")
    return source


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
