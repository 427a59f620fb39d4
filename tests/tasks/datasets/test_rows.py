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
        ("a.json", LINES),  # lines under the other name
        ("a.json", json.dumps(ROWS, indent=1)),
        ("a.json", json.dumps({"version": "1", "data": ROWS})),
        ("a.json", json.dumps({"Data": ROWS, "Domain": "Web"})),
        ("a.json", json.dumps({"questions": ROWS})),
        ("a.json", json.dumps({"a": {"0": 1, "1": 2, "2": 3}, "b": {"0": ["x"], "1": [], "2": ["\u00e9", "z"]}})),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_all_layouts_give_the_same_rows(tmp_path: Path, name: str, text: str, packed: bool) -> None:
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert [dict(row.values) for row in read_rows(path)] == ROWS


def test_parquet_gives_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    parquet_bytes(path)
    monkeypatch.setattr("memfold.tasks.datasets.rows.BATCH", 2)
    rows = list(read_rows(path))
    assert [row.values for row in rows] == ROWS
    assert rows[2].where == f"{path}, row 3"
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"to read parquet install pyarrow: pip install 'memfold\[data\]'"):
        list(read_rows(path))


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "a.jsonl, row 2 is not JSON: Expecting value"),
        ("a.jsonl", b'{"a": 1}\n\n[2]\n', r"a.jsonl, row 3 is \[2\]; wanted: an object"),
        ("a.jsonl", b'{"a": 1}\n"\xff"\n', "a.jsonl cannot be read after row"),
        ("a.json", b'{"a": ', "a.json is not JSON: Expecting value in line 1"),
        ("a.json", b'{"a": 1}', "a.json holds no list of rows; wanted: a list, or one under data, Data, questions"),
        ("a.json", b'"text"', "a.json holds no list of rows"),
        ("a.json", b'[{"a": 1}, 2]', "a.json, row 2 is 2; wanted: an object"),
        ("a.json", b"[" * 100_000, "a.json cannot be read|a.json is not JSON"),
        ("a.parquet", b"PAR1 not really", "a.parquet is not parquet or damaged"),
        ("a.jsonl.gz", b"plain", "a.jsonl.gz cannot be read after row 0: Not a gzipped file"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99)[:-9], "a.jsonl.gz cannot be read after row"),
        ("a.csv", b"a,b", r"cannot read rows of '.csv' files; readable: .jsonl, .json, .parquet"),
        ("a.jsonl.zst", b"", r"cannot read rows of '.zst' files"),
        ("a.jsonl", None, "no data file at .*a.jsonl; docs/data.md says"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, name: str, data: bytes | None, said: str) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=said) as caught:
        list(read_rows(tmp_path / name))
    assert "\n" not in str(caught.value)


def row(**values: Any) -> Row:
    return Row(values, "f.jsonl, row 7")


def test_records_have_one_form_whatever_their_layout() -> None:
    wanted = [{"t": "x", "n": 1}, {"t": "y", "n": 2}]
    for given in (wanted, [["x", 1], ["y", 2]], {"t": ["x", "y"], "n": [1, 2]}):
        found = row(facts=given).rows("facts", ("t", "n"))
        assert [one.values for one in found] == wanted
        assert found[1].where == "f.jsonl, row 7, facts[1]"
    assert row(facts={"t": [], "n": []}).rows("facts") == []
    assert row(facts=[]).rows("facts") == []


@pytest.mark.parametrize(
    ("take", "values", "said"),
    [
        (
            lambda one: one.text("a"),
            {},
            "'a' is missing; wanted: a string that is not blank|'a' is missing; wanted: a s",
        ),
        (lambda one: one.text("a"), {"a": " "}, "'a' is ' '; wanted: a string that is not blank; correct the row"),
        (lambda one: one.text("a"), {"a": None}, "'a' is None; wanted: a string"),
        (lambda one: one.number("a"), {"a": True}, "'a' is True; wanted: a whole number"),
        (lambda one: one.number("a"), {"a": "3"}, "'a' is '3'; wanted: a whole number"),
        (lambda one: one.flag("a"), {"a": "yes"}, "'a' is 'yes'; wanted: true or false"),
        (lambda one: one.texts("a"), {"a": "yes"}, "'a' is 'yes'; wanted: a list"),
        (lambda one: one.texts("a"), {"a": ["yes", 1]}, "wanted: a list of strings"),
        (lambda one: one.row("a"), {"a": []}, r"'a' is \[\]; wanted: an object"),
        (lambda one: one.rows("a"), {"a": "x"}, "wanted: a list"),
        (lambda one: one.rows("a"), {"a": [["x"]]}, "wanted: a list of objects;"),
        (lambda one: one.rows("a", ("t", "n")), {"a": [["x"]]}, r"wanted: a list of objects or of \[t, n\];"),
        (lambda one: one.rows("a"), {"a": {"t": [1], "n": []}}, "wanted: a list, or an object of lists of one length"),
        (lambda one: one.rows("a")[1].text("t"), {"a": [{"t": "x"}, {}]}, r"row 7, a\[1\]: 't' is missing"),
    ],
)
def test_an_odd_value_is_named_with_its_place(take: Any, values: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        take(row(**values))
    assert str(caught.value).startswith("f.jsonl, row 7")


def test_a_row_has_a_name_in_any_case() -> None:
    assert row(id=5, _id="x").name("_id", "id") == "x"
    assert row(id=5, _id=None).name("_id", "id") == "5"
    assert row().name("id") == "f.jsonl, row 7"
