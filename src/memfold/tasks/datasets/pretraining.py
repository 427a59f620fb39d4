"""Streams text for pretraining from local files, with only one document in memory at a time.

Files of rows (JSON Lines, JSON, parquet) have a document in each row; other files (text, HTML, PDF, .docx) are one
document.
Mixing, shuffling and repetition are up to the training recipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from memfold.core.document import Document
from memfold.core.errors import DataError
from memfold.readers.files import SUFFIXES, open_document
from memfold.readers.folder import files_in
from memfold.tasks.datasets.rows import Row, is_table, read_rows

PLAIN = (".txt", ".md", ".markdown", ".text")


def stream_text(paths: Iterable[str | Path], key: str = "text") -> Iterator[Document]:
    """The documents of files, and of all files in folders in the order of their names.

    `key` is the field of a row that contains its text.  Blank rows, which occur in large crawls, are skipped.

    Raises:
        DataError: for an unreadable file, a folder without readable files, or a row without the field.
    """
    for path in map(Path, paths):
        for file in text_files(path):
            if is_table(file):
                yield from _documents(read_rows(file), key)
            else:
                yield open_document(file)


def stream_rows(rows: Iterable[Mapping[str, Any]], key: str = "text", name: str = "rows") -> Iterator[Document]:
    """The documents of rows in memory or in a stream, such as a split of the `datasets` library."""
    return _documents((Row(row, f"{name}, row {number}") for number, row in enumerate(rows, 1)), key)


def text_files(path: Path) -> list[Path]:
    """A file itself, or the files of a folder and its subfolders that have rows or text by their names, sorted."""
    if not path.is_dir():
        return [path]
    named = [*PLAIN, *SUFFIXES]
    readable = [file for file in files_in(path).files if is_table(file) or file.suffix.lower() in named]
    if not readable:
        raise DataError(f"no readable file (.jsonl, .json, .parquet, {', '.join(named)}) in the folder {path}")
    return readable


def _documents(rows: Iterable[Row], key: str) -> Iterator[Document]:
    for row in rows:
        text = row.string(key)
        if text.strip():
            yield Document(row.where, text=text)
