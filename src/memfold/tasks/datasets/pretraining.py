"""Text for pretraining from local files, one document after another, never more than one of them in memory.

Files of rows (JSON Lines, JSON, parquet) give a document for each row, all others (text, HTML, PDF) one for the file.
Left out: mixing, shuffling and repeating, which belong to the recipe that trains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from memfold.core.document import SUFFIXES, Document, open_document
from memfold.core.errors import DataError
from memfold.tasks.datasets.rows import Row, is_table, read_rows


def stream_text(paths: Iterable[str | Path], key: str = "text") -> Iterator[Document]:
    """The documents of files, and of the files in folders by name; `key` is the field of a row that holds its text.

    Rows without anything but space are left out: large crawls have such.

    Raises:
        DataError: for a file that cannot be read, a folder without any that can, or a row without the field.
    """
    for path in map(Path, paths):
        for file in text_files(path):
            if is_table(file):
                yield from _documents(read_rows(file), key)
            else:
                yield open_document(file)


def stream_rows(rows: Iterable[Mapping[str, Any]], key: str = "text", name: str = "rows") -> Iterator[Document]:
    """The same of rows that are there already, such as a split of the `datasets` library, streamed or not."""
    return _documents((Row(row, f"{name}, row {number}") for number, row in enumerate(rows, 1)), key)


def text_files(path: Path) -> list[Path]:
    """A file itself, or those of a folder that can be read, by name."""
    if not path.is_dir():
        return [path]
    named = [suffix for suffix in SUFFIXES if suffix]
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    readable = [file for file in files if is_table(file) or file.suffix.lower() in named]
    if not readable:
        raise DataError(f"no readable file (.jsonl, .json, .parquet, {', '.join(named)}) in the folder {path}")
    return readable


def _documents(rows: Iterable[Row], key: str) -> Iterator[Document]:
    for row in rows:
        text = row.string(key)
        if text.strip():
            yield Document(row.where, text=text)
