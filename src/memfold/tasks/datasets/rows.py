"""The rows of a local data file, and values taken from them with their type checked.

JSON Lines, JSON and parquet, the first two also packed with gzip.  Datasets are published in several layouts of the
same fields; the differences end here: a list of records may be objects, a list for each field (as the `datasets`
library writes it), or bare lists in a known order.
Left out: downloading; and JSON that does not fit into memory, which its lines or parquet do.
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
READABLE = ".jsonl, .json, .parquet, .jsonl.gz, .json.gz"
INSIDE = ("data", "Data", "questions")  # the keys under which published JSON files keep their rows
BATCH = 64
UNREADABLE = (UnicodeDecodeError, EOFError, OSError, zlib.error)


@dataclass(frozen=True)
class Row:
    """The fields of one row, or of a record in it; `where` names both for messages, `path` is the file."""

    values: Mapping[str, Any]
    where: str
    path: Path | None = None

    def has(self, key: str) -> bool:
        """Whether there is something under `key`."""
        return self.values.get(key) is not None

    def text(self, key: str) -> str:
        """A string with something other than space in it."""
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
        """True or false, which some files write as 1 and 0."""
        if self.values.get(key) in (0, 1):
            return bool(self.values[key])
        raise self.wrong(key, "true or false")

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        value = self._list(key)
        if not all(isinstance(one, str) for one in value):
            raise self.wrong(key, "a list of strings")
        return tuple(value)

    def row(self, key: str) -> Row:
        """A record."""
        value = self.values.get(key)
        if not isinstance(value, Mapping):
            raise self.wrong(key, "an object")
        return self._inner(key, value)

    def rows(self, key: str, fields: Sequence[str] = ()) -> list[Row]:
        """A list of records; `fields` gives the order of those that are bare lists."""
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
        """The first of these fields that there is, else where the row stands: a name for its document."""
        found = next((self.values[key] for key in keys if self.has(key)), None)
        return self.where if found is None else str(found)

    def wrong(self, key: str, wanted: str) -> DataError:
        """The error for a field that is missing or cannot be used."""
        what = f"is {reprlib.repr(self.values[key])}" if key in self.values else "is missing"
        return DataError(f"{self.where}: {key!r} {what}; wanted: {wanted}; correct the row or take it out")

    def _typed(self, key: str, kind: type, wanted: str) -> Any:
        value = self.values.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.wrong(key, wanted)
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
            raise self.wrong(key, "a list, or an object of lists of one length")
        return [dict(zip(columns, record, strict=True)) for record in zip(*columns.values(), strict=True)]


def is_table(path: Path) -> bool:
    """Whether a file's name says that it holds rows."""
    return _suffix(path) in SUFFIXES


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file in their order, numbered from 1; of JSON Lines the number is that of the line.

    Raises:
        DataError: for a file that cannot be read, or a row that is no object.
    """
    suffix = _suffix(path)
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: cannot read rows of {path.suffix!r} files; readable: {READABLE}")
    if not path.is_file():
        raise DataError(f"no data file at {path}; docs/data.md says where each dataset comes from")
    read = {".parquet": _parquet, ".json": _json}.get(suffix, _lines)
    for number, values in read(path):
        if not isinstance(values, Mapping):
            raise DataError(f"{path}, row {number} is {reprlib.repr(values)}; wanted: an object; correct the row")
        yield Row(values, f"{path}, row {number}", path)


def _suffix(path: Path) -> str:
    return (Path(path.stem) if path.suffix == ".gz" else path).suffix.lower()


def _open(path: Path) -> IO[str]:
    try:
        return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; give a file that can be read") from None


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    number = 0
    try:
        with _open(path) as file:
            filled = (found for found in enumerate(file, 1) if found[1].strip())
            for number, line in filled:
                yield number, json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, row {number} is not JSON: {error.msg} at character {error.pos}; correct it") from None
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read after row {number}: {error}; get the file again") from None


def _json(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        with _open(path) as file:
            whole = json.load(file)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # one object after another: JSON Lines under another name
            yield from _lines(path)
            return
        raise DataError(f"{path} is not JSON: {error.msg} in line {error.lineno}; get the file again") from None
    except (*UNREADABLE, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}; get the file again") from None
    yield from enumerate(_inside(whole, path), 1)


def _inside(whole: Any, path: Path) -> Sequence[Any]:
    """The rows of a JSON file: the file itself, the list that it holds, or its columns {field: {row: value}}."""
    if isinstance(whole, Mapping):
        held = next((whole[key] for key in INSIDE if isinstance(whole.get(key), list)), None)
        if held is not None:
            whole = held
        elif whole and all(isinstance(column, Mapping) for column in whole.values()):
            names = dict.fromkeys(name for column in whole.values() for name in column)
            whole = [{key: column[name] for key, column in whole.items() if name in column} for name in names]
    if not isinstance(whole, list):
        raise DataError(f"{path} holds no list of rows; wanted: a list, or one under {', '.join(INSIDE)}")
    return whole


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{path}: to read parquet install pyarrow: pip install 'memfold[data]'") from None
    try:
        batches = parquet.ParquetFile(path).iter_batches(batch_size=BATCH)
        yield from enumerate(chain.from_iterable(batch.to_pylist() for batch in batches), 1)
    except (pyarrow.ArrowException, OSError) as error:
        what = str(error).partition("\n")[0]
        raise DataError(f"{path} is not parquet or damaged: {what}; get the file again") from None
