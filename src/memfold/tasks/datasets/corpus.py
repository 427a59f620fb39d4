"""Rows of local files from anywhere in them: what training draws from, a function of random numbers alone.

JSON Lines are entered at a random byte and parquet at a random row group, so that a file of any size costs nothing to
open; all others are read whole and kept.  One row in fifty, by a checksum of its text, is held out for validation.
Left out: the order of a file.  Rows are drawn with replacement, so that an interrupted run has nothing to remember.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from random import Random

from memfold.core.document import open_document
from memfold.core.errors import DataError
from memfold.core.types import Sample
from memfold.tasks.datasets.pretraining import text_files
from memfold.tasks.datasets.rows import Row, is_table, read_rows
from memfold.tasks.datasets.table import load_dataset

HELD_OUT = 50
KEYS = ("text", "content")  # under which pretraining data keep their text
KEPT_FILES = 4
MOST_BYTES = 1 << 20  # of JSON Lines read at one place


def check_files(files: Sequence[str]) -> None:
    """Refuse data that is not there.

    Raises:
        DataError: in one line that names all that is missing.
    """
    missing = [file for file in files if not Path(file).exists()]
    if missing:
        raise DataError(
            f"no data at {', '.join(missing)}; docs/data.md says where it comes from and how it is laid out"
        )


def draw_rows(rng: Random, files: tuple[str, ...], held_out: bool = False) -> Iterator[Row]:
    """Rows from a random place of a random file (the larger, the more often) on, and then from another one."""
    found, fruitless = _sizes(files), 0
    while fruitless < HELD_OUT:
        path = rng.choices([path for path, _ in found], [size for _, size in found])[0]
        fruitless += 1
        for row in (row for row in _from_somewhere(rng, path) if is_held_out(text_of(row)) == held_out):
            fruitless = 0
            yield row
    kept = "to validate on" if held_out else "to train on"
    raise DataError(f"{', '.join(files)}: too few rows {kept} (one in {HELD_OUT} is held out); give more rows")


def text_of(row: Row) -> str:
    """The text of a row, under the first of the usual names."""
    return row.string(next((key for key in KEYS if row.has(key)), KEYS[0]))


def is_held_out(text: str) -> bool:
    """Whether what has this text belongs to validation."""
    return zlib.crc32(text.encode("utf-8", "replace")) % HELD_OUT == 0


def questions_of(dataset: str, files: tuple[str, ...], held_out: bool) -> tuple[Sample, ...]:
    """All samples of a dataset that belong to training, or to validation."""
    found = _questions(dataset, files)[held_out]
    if not found:
        kept = "to validate on" if held_out else "to train on"
        raise DataError(f"{', '.join(files)}: no question {kept} (one in {HELD_OUT} is held out); give more rows")
    return found


@lru_cache(maxsize=KEPT_FILES)
def _questions(dataset: str, files: tuple[str, ...]) -> dict[bool, tuple[Sample, ...]]:
    """Those of training under False, of validation under True: read once for both."""
    parts: dict[bool, list[Sample]] = {False: [], True: []}
    for sample in load_dataset(dataset, *files):
        parts[is_held_out(sample.question)].append(sample)
    return {held_out: tuple(samples) for held_out, samples in parts.items()}


@lru_cache(maxsize=KEPT_FILES)
def _sizes(files: tuple[str, ...]) -> list[tuple[Path, int]]:
    paths = [path for file in files for path in text_files(Path(file))]
    return [(path, max(1, path.stat().st_size)) for path in paths]


def _from_somewhere(rng: Random, path: Path) -> Iterator[Row]:
    if path.suffix in (".jsonl", ".ndjson"):
        return _lines(rng, path)
    if path.suffix == ".parquet":
        return _row_group(rng, path)
    rows = _whole(path)
    return islice(rows, rng.randrange(len(rows)), None)


def _lines(rng: Random, path: Path) -> Iterator[Row]:
    """The rows after a random byte; those from the beginning where a file is a single line."""
    start = rng.randrange(max(1, path.stat().st_size))
    with path.open("rb") as file:
        file.seek(start)
        if start:
            file.readline()
        lines = [line for line in file.readlines(MOST_BYTES) if line.strip()]
        if not lines:
            file.seek(0)
            lines = [line for line in file.readlines(MOST_BYTES) if line.strip()]
        for line in lines:
            where = f"{path}, after byte {start}"
            try:
                values = json.loads(line)
            except ValueError as error:
                raise DataError(f"{where}: a row is not JSON: {error}; correct it") from None
            yield Row(values, where, path)


def _row_group(rng: Random, path: Path) -> Iterator[Row]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{path}: to read parquet install pyarrow: pip install 'memfold[data]'") from None
    file = parquet.ParquetFile(path)
    group = rng.randrange(file.num_row_groups)
    rows = file.read_row_group(group).to_pylist()
    start = rng.randrange(len(rows))
    for number, values in enumerate(rows[start:], start):
        yield Row(values, f"{path}, row group {group}, row {number}", path)


@lru_cache(maxsize=KEPT_FILES)
def _whole(path: Path) -> tuple[Row, ...]:
    """All rows of a file; a text is one row.

    Raises:
        DataError: when there is none.
    """
    rows = tuple(read_rows(path)) if is_table(path) else (Row({"text": open_document(path).read()}, str(path), path),)
    if not rows:
        raise DataError(f"{path} holds no row; give a file with some")
    return rows
