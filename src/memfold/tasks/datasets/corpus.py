"""Draws rows of local files at random for training, as a function of random numbers alone.

JSON Lines are read from a random byte on and parquet from a random row group on, so that large files are cheap to open;
other files are read as a whole and cached.  One row in fifty, chosen by a checksum of its text, is held out for
validation.  Rows are drawn with replacement, so that an interrupted run has no state to restore.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from random import Random

from memfold.core.errors import DataError
from memfold.core.types import Sample
from memfold.readers.files import open_document
from memfold.tasks.datasets.pretraining import text_files
from memfold.tasks.datasets.rows import Row, is_table, read_rows
from memfold.tasks.datasets.table import load_dataset

HELD_OUT = 50
KEYS = ("text", "content")  # the usual names of the text field of pretraining data
CACHED_FILES = 4
ANYWHERE = ("yes", "no")  # answers that no text has to state
SECTION = 10_000  # characters of a text, some pages
PARAGRAPH = re.compile(r"\n[ \t\r]*\n\s*")
READ_BYTES = 1 << 20  # of JSON Lines, at one position


def check_files(files: Sequence[str]) -> None:
    """Check that data files exist.

    Raises:
        DataError: if any is missing; the message lists all of them.
    """
    missing = [file for file in files if not Path(file).exists()]
    if missing:
        raise DataError(
            f"no data at {', '.join(missing)}; docs/data.md says where it comes from and how it is laid out"
        )


def draw_rows(rng: Random, files: tuple[str, ...], held_out: bool = False) -> Iterator[Row]:
    """Endless rows: those from a random position of a random file on, then those of the next random file.

    Files are drawn with a probability proportional to their size.
    """
    sizes, failures = _sizes(files), 0
    while failures < HELD_OUT:
        path = rng.choices([path for path, _ in sizes], [size for _, size in sizes])[0]
        failures += 1
        for row in (row for row in _rows_from_random_position(rng, path) if is_held_out(text_of(row)) == held_out):
            failures = 0
            yield row
    raise DataError(f"{', '.join(files)}: too few rows {_use(held_out)} (one in {HELD_OUT} is held out); add rows")


def text_of(row: Row) -> str:
    """The text of a row, from the first of `KEYS` that it has."""
    return row.string(next((key for key in KEYS if row.has(key)), KEYS[0]))


def is_held_out(text: str) -> bool:
    """Whether the row with this text is held out for validation."""
    return zlib.crc32(text.encode("utf-8", "replace")) % HELD_OUT == 0


def questions_of(
    dataset: str, files: tuple[str, ...], held_out: bool, known: tuple[str, ...] = (), in_text: bool = False
) -> tuple[Sample, ...]:
    """All samples of a dataset for training or, with `held_out`, for validation.

    Left out are questions with a right answer in each of the files `known` (`known_questions`) and, with `in_text`,
    those none of whose answers stands in the document; yes and no need not.

    Raises:
        DataError: if no sample is left, or a file cannot be used.
    """
    samples = _questions(dataset, files, known, in_text)[held_out]
    if not samples:
        raise DataError(f"{', '.join(files)}: no question {_use(held_out)} (one in {HELD_OUT} is held out); add rows")
    return samples


def known_questions(files: tuple[str, ...]) -> frozenset[str]:
    """The questions that were answered right in each of some files of samples of `memfold eval`.

    MemAgent and LycheeMemory leave out of their training what a model answers without a text, twice out of two times.

    Raises:
        DataError: for a file that has no such samples.
    """
    right = []
    for file in files:
        rows = list(read_rows(Path(file)))
        if not rows:
            raise DataError(f"{file} has no samples; name samples.jsonl of a closed-book evaluation")
        right.append({row.text("question") for row in rows if row.flag("correct")})
    return frozenset.intersection(*map(frozenset, right))


def _states_answer(sample: Sample) -> bool:
    text = sample.document.read().casefold()
    return any(answer.casefold() in ANYWHERE or answer.casefold() in text for answer in sample.answers)


def sections(text: str) -> Iterator[str]:
    """Yield a text in sections of `SECTION` characters or more, each of whole paragraphs: a book is many rows.

    Joined, they are the text.
    """
    start = 0
    for border in PARAGRAPH.finditer(text):
        if border.end() - start >= SECTION:
            yield text[start : border.end()]
            start = border.end()
    if start < len(text) or not text:
        yield text[start:]


def _use(held_out: bool) -> str:
    return "to validate on" if held_out else "to train on"


@lru_cache(maxsize=CACHED_FILES)
def _questions(
    dataset: str, files: tuple[str, ...], known: tuple[str, ...] = (), in_text: bool = False
) -> dict[bool, tuple[Sample, ...]]:
    """The samples by whether they are held out."""
    if known or in_text:
        without = known_questions(known) if known else frozenset[str]()
        return {
            held_out: tuple(
                sample
                for sample in samples
                if sample.question not in without and (not in_text or _states_answer(sample))
            )
            for held_out, samples in _questions(dataset, files).items()
        }
    parts: dict[bool, list[Sample]] = {False: [], True: []}
    for sample in load_dataset(dataset, *files):
        parts[is_held_out(sample.question)].append(sample)
    return {held_out: tuple(samples) for held_out, samples in parts.items()}


@lru_cache(maxsize=CACHED_FILES)
def _sizes(files: tuple[str, ...]) -> list[tuple[Path, int]]:
    paths = [path for file in files for path in text_files(Path(file))]
    return [(path, max(1, path.stat().st_size)) for path in paths]


def _rows_from_random_position(rng: Random, path: Path) -> Iterator[Row]:
    if path.suffix in (".jsonl", ".ndjson"):
        return _lines(rng, path)
    if path.suffix == ".parquet":
        return _row_group(rng, path)
    rows = _whole(path)
    return islice(rows, rng.randrange(len(rows)), None)


def _lines(rng: Random, path: Path) -> Iterator[Row]:
    """The rows after a random byte, or from the beginning if no line starts after it."""
    start = rng.randrange(max(1, path.stat().st_size))
    with path.open("rb") as file:
        file.seek(start)
        if start:
            file.readline()
        lines = [line for line in file.readlines(READ_BYTES) if line.strip()]
        if not lines:
            file.seek(0)
            lines = [line for line in file.readlines(READ_BYTES) if line.strip()]
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
        raise DataError(f"{path}: reading parquet needs pyarrow; pip install 'memfold[data]'") from None
    file = parquet.ParquetFile(path)
    group = rng.randrange(file.num_row_groups)
    rows = file.read_row_group(group).to_pylist()
    start = rng.randrange(len(rows))
    for number, values in enumerate(rows[start:], start):
        yield Row(values, f"{path}, row group {group}, row {number}", path)


@lru_cache(maxsize=CACHED_FILES)
def _whole(path: Path) -> tuple[Row, ...]:
    """All rows of a file; those of a text are its sections.

    Raises:
        DataError: if there are none.
    """
    if is_table(path):
        rows = tuple(read_rows(path))
    else:
        rows = tuple(Row({"text": text}, str(path), path) for text in sections(open_document(path).read()))
    if not rows:
        raise DataError(f"{path} has no rows; give a file with rows")
    return rows
