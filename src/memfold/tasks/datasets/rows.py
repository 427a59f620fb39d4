"""Reads the rows of a local data file and checks the types of their values.

JSON Lines, JSON and parquet are supported, the first two also compressed with gzip.  Datasets are published in several
layouts of the same fields, which are unified here: a list of records may be a list of objects, a list per field (as the
`datasets` library writes it), or bare lists in a known order.
JSON has to fit into memory; JSON Lines and parquet are streamed.
"""

from __future__ import annotations

import gzip
import json
import reprlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

from memfold.core.errors import DataError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
UTF_8 = "utf-8-sig"  # a byte order mark is not a part of the first row
READABLE = ".jsonl, .json, .parquet, .jsonl.gz, .json.gz"
ROW_KEYS = ("data", "Data", "questions")  # under which published JSON files have their rows
BATCH = 64
UNREADABLE = (UnicodeDecodeError, EOFError, OSError, zlib.error)


@dataclass(frozen=True)
class Row:
    """The fields of a row or of a record in it; `where` locates it in error messages, `path` is the file."""

    values: Mapping[str, Any]
    where: str
    path: Path | None = None

    def has(self, key: str) -> bool:
        """Whether the field exists and is not null."""
        return self.values.get(key) is not None

    def text(self, key: str) -> str:
        """A string that is not blank."""
        value = self.string(key)
        if not value.strip():
            raise self.wrong(key, "a string that is not blank")
        return value

    def string(self, key: str) -> str:
        """Any string."""
        value: str = self._typed(key, str, "a string")
        return value

    def number(self, key: str) -> int:
        """A whole number."""
        value: int = self._typed(key, int, "a whole number")
        return value

    def flag(self, key: str) -> bool:
        """A boolean, which some files write as 1 or 0."""
        if self.values.get(key) in (0, 1):
            return bool(self.values[key])
        raise self.wrong(key, "true or false")

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        value = self._list(key)
        if not all(isinstance(item, str) for item in value):
            raise self.wrong(key, "a list of strings")
        return tuple(value)

    def row(self, key: str) -> Row:
        """A record."""
        value = self.values.get(key)
        if not isinstance(value, Mapping):
            raise self.wrong(key, "an object")
        return self._inner(key, value)

    def rows(self, key: str, fields: Sequence[str] = ()) -> list[Row]:
        """A list of records; `fields` names the fields of records that are bare lists."""
        value = self.values.get(key)
        if isinstance(value, Mapping):
            value = self._columns(key, value)
        elif not isinstance(value, list | tuple):
            raise self.wrong(key, "a list")
        rows = []
        for number, record in enumerate(value):
            if isinstance(record, list | tuple) and len(record) == len(fields):
                record = dict(zip(fields, record, strict=True))
            if not isinstance(record, Mapping):
                raise self.wrong(key, "a list of objects" + (f" or of [{', '.join(fields)}]" if fields else ""))
            rows.append(self._inner(f"{key}[{number}]", record))
        return rows

    def name(self, *keys: str) -> str:
        """A name for the row's document: the first of these fields that exists, else the location of the row."""
        value = next((self.values[key] for key in keys if self.has(key)), None)
        return self.where if value is None else str(value)

    def wrong(self, key: str, expected: str) -> DataError:
        """The error for a missing or invalid field."""
        problem = f"is {reprlib.repr(self.values[key])}" if key in self.values else "is missing"
        return DataError(f"{self.where}: {key!r} {problem}; expected: {expected}; correct or remove the row")

    def _typed(self, key: str, kind: type, expected: str) -> Any:
        value = self.values.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.wrong(key, expected)
        return value

    def _list(self, key: str) -> Sequence[Any]:
        value = self.values.get(key)
        if not isinstance(value, list | tuple):
            raise self.wrong(key, "a list")
        return value

    def _inner(self, key: str, values: Mapping[str, Any]) -> Row:
        return Row(values, f"{self.where}, {key}", self.path)

    def _columns(self, key: str, columns: Mapping[str, Any]) -> list[dict[str, Any]]:
        lengths = {len(column) if isinstance(column, list | tuple) else -1 for column in columns.values()}
        if len(lengths) != 1 or -1 in lengths:
            raise self.wrong(key, "a list, or an object of lists of the same length")
        return [dict(zip(columns, record, strict=True)) for record in zip(*columns.values(), strict=True)]


def is_table(path: Path) -> bool:
    """Whether a file has rows, according to its name."""
    return _suffix(path) in SUFFIXES


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file in order.  Their numbers in error messages count from 1, in JSON Lines by line.

    Raises:
        DataError: for an unreadable file, or a row that is not an object.
    """
    suffix = _suffix(path)
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: cannot read rows of {path.suffix!r} files; readable: {READABLE}")
    if not path.is_file():
        raise DataError(f"no data file at {path}; docs/data.md says where each dataset comes from")
    read = {".parquet": _parquet, ".json": _json}.get(suffix, _lines)
    for number, values in read(path):
        if not isinstance(values, Mapping):
            raise DataError(f"{path}, row {number} is {reprlib.repr(values)}; expected: an object; correct the row")
        yield Row(values, f"{path}, row {number}", path)


def _suffix(path: Path) -> str:
    return (Path(path.stem) if path.suffix == ".gz" else path).suffix.lower()


def _open(path: Path) -> IO[str]:
    try:
        return gzip.open(path, "rt", encoding=UTF_8) if path.suffix == ".gz" else path.open(encoding=UTF_8)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; give a file that can be read") from None


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    number = 0
    try:
        with _open(path) as file:
            numbered = ((number, line) for number, line in enumerate(file, 1) if line.strip())
            for number, line in numbered:
                yield number, json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, row {number} is not JSON: {error.msg} at character {error.pos}; correct it") from None
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read after row {number}: {error}; download the file again") from None


def _json(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        with _open(path) as file:
            content = json.load(file)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # JSON Lines in a file called .json
            yield from _lines(path)
            return
        raise DataError(f"{path} is not JSON: {error.msg} in line {error.lineno}; download the file again") from None
    except (*UNREADABLE, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}; download the file again") from None
    yield from enumerate(_json_rows(content, path), 1)


def _json_rows(content: Any, path: Path) -> Sequence[Any]:
    """The rows of a JSON file: its top-level list, a list under one of `ROW_KEYS`, or columns {field: {row: value}}."""
    rows = content
    if isinstance(content, Mapping):
        rows = next((content[key] for key in ROW_KEYS if isinstance(content.get(key), list)), None)
        if rows is None and content and all(isinstance(column, Mapping) for column in content.values()):
            names = dict.fromkeys(name for column in content.values() for name in column)
            rows = [{key: column[name] for key, column in content.items() if name in column} for name in names]
    if not isinstance(rows, list):
        raise DataError(f"{path} has no list of rows; expected: a list, or one under {', '.join(ROW_KEYS)}")
    return rows


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{path}: reading parquet needs pyarrow; pip install 'memfold[data]'") from None
    try:
        batches = parquet.ParquetFile(path).iter_batches(batch_size=BATCH)
        yield from enumerate(chain.from_iterable(batch.to_pylist() for batch in batches), 1)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path} is damaged or not parquet: {reason}; download the file again") from None
