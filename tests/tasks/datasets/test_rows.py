from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from memfold.core.errors import DataError
from memfold.tasks.datasets.rows import Row, read_rows

ROWS = [{"a": 1, "b": ["x"]}, {"a": 2, "b": []}, {"a": 3, "b": ["\u00e9", "z"]}]
LINES = "\n".join(map(json.dumps, ROWS)) + "\n"


def parquet_bytes(path: Path) -> bytes:
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", LINES),
        ("a.ndjson", LINES.replace("\n", "\n\n", 1)),
        ("a.json", LINES),  # JSON Lines in a .json file
        ("a.json", json.dumps(ROWS, indent=1)),
        ("a.json", json.dumps({"version": "1", "data": ROWS})),
        ("a.json", json.dumps({"Data": ROWS, "Domain": "Web"})),
        ("a.json", json.dumps({"questions": ROWS})),
        ("a.json", json.dumps({"a": {"0": 1, "1": 2, "2": 3}, "b": {"0": ["x"], "1": [], "2": ["\u00e9", "z"]}})),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_all_layouts_give_the_same_rows(tmp_path: Path, name: str, text: str, compressed: bool) -> None:
    path = tmp_path / (f"{name}.gz" if compressed else name)
    path.write_bytes(gzip.compress(text.encode()) if compressed else text.encode())
    assert [dict(row.values) for row in read_rows(path)] == ROWS


def test_parquet_gives_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    parquet_bytes(path)
    monkeypatch.setattr("memfold.tasks.datasets.rows.BATCH", 2)
    rows = list(read_rows(path))
    assert [row.values for row in rows] == ROWS
    assert rows[2].where == f"{path}, row 3"
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"reading parquet needs pyarrow; pip install 'memfold\[data\]'"):
        list(read_rows(path))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "a.jsonl, row 2 is not JSON: Expecting value"),
        ("a.jsonl", b'{"a": 1}\n\n[2]\n', r"a.jsonl, row 3 is \[2\]; expected: an object"),
        ("a.jsonl", b'{"a": 1}\n"\xff"\n', "a.jsonl cannot be read after row"),
        ("a.json", b'{"a": ', "a.json is not JSON: Expecting value in line 1"),
        ("a.json", b'{"a": 1}', "a.json has no list of rows; expected: a list, or one under data, Data, questions"),
        ("a.json", b'"text"', "a.json has no list of rows"),
        ("a.json", b'[{"a": 1}, 2]', "a.json, row 2 is 2; expected: an object"),
        ("a.json", b"[" * 100_000, "a.json cannot be read|a.json is not JSON"),
        ("a.parquet", b"PAR1 not really", "a.parquet is damaged or not parquet"),
        ("a.jsonl.gz", b"plain", "a.jsonl.gz cannot be read after row 0: Not a gzipped file"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99, mtime=0)[:-9], "a.jsonl.gz cannot be read after row"),
        ("a.csv", b"a,b", r"cannot read rows of '.csv' files; readable: .jsonl, .json, .parquet"),
        ("a.jsonl.zst", b"", r"cannot read rows of '.zst' files"),
        ("a.jsonl", None, "no data file at .*a.jsonl; docs/data.md says"),
    ],
)
def test_an_unreadable_file_is_a_one_line_error(tmp_path: Path, name: str, data: bytes | None, message: str) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        list(read_rows(tmp_path / name))
    assert "\n" not in str(caught.value)


def row(**values: Any) -> Row:
    return Row(values, "f.jsonl, row 7")


def test_records_are_the_same_in_every_layout() -> None:
    objects = [{"t": "x", "n": 1}, {"t": "y", "n": 2}]
    for layout in (objects, [["x", 1], ["y", 2]], {"t": ["x", "y"], "n": [1, 2]}):
        records = row(facts=layout).rows("facts", ("t", "n"))
        assert [record.values for record in records] == objects
        assert records[1].where == "f.jsonl, row 7, facts[1]"
    assert row(facts={"t": [], "n": []}).rows("facts") == []
    assert row(facts=[]).rows("facts") == []


@pytest.mark.parametrize(
    ("get", "values", "message"),
    [
        (lambda row: row.text("a"), {}, "'a' is missing; expected: a string"),
        (lambda row: row.text("a"), {"a": " "}, "'a' is ' '; expected: a string that is not blank; correct or"),
        (lambda row: row.text("a"), {"a": None}, "'a' is None; expected: a string"),
        (lambda row: row.number("a"), {"a": True}, "'a' is True; expected: a whole number"),
        (lambda row: row.number("a"), {"a": "3"}, "'a' is '3'; expected: a whole number"),
        (lambda row: row.flag("a"), {"a": "yes"}, "'a' is 'yes'; expected: true or false"),
        (lambda row: row.texts("a"), {"a": "yes"}, "'a' is 'yes'; expected: a list"),
        (lambda row: row.texts("a"), {"a": ["yes", 1]}, "expected: a list of strings"),
        (lambda row: row.row("a"), {"a": []}, r"'a' is \[\]; expected: an object"),
        (lambda row: row.rows("a"), {"a": "x"}, "expected: a list"),
        (lambda row: row.rows("a"), {"a": [["x"]]}, "expected: a list of objects;"),
        (lambda row: row.rows("a", ("t", "n")), {"a": [["x"]]}, r"expected: a list of objects or of \[t, n\];"),
        (lambda row: row.rows("a"), {"a": {"t": [1], "n": []}}, "a list, or an object of lists of the same length"),
        (lambda row: row.rows("a")[1].text("t"), {"a": [{"t": "x"}, {}]}, r"row 7, a\[1\]: 't' is missing"),
    ],
)
def test_an_invalid_value_is_reported_with_its_location(get: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        get(row(**values))
    assert str(caught.value).startswith("f.jsonl, row 7")


def test_a_row_always_has_a_name() -> None:
    assert row(id=5, _id="x").name("_id", "id") == "x"
    assert row(id=5, _id=None).name("_id", "id") == "5"
    assert row().name("id") == "f.jsonl, row 7"
