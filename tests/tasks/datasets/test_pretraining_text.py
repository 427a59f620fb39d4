from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from memfold.core.errors import DataError
from memfold.tasks.datasets.pretraining import stream_rows, stream_text


def test_files_of_all_kinds_are_one_stream(tmp_path: Path, make_pdf: Callable[..., bytes]) -> None:
    rows = [{"text": "one"}, {"text": " "}, {"text": "two"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "b.parquet")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "c.txt").write_text("three")
    (tmp_path / "inner" / "d.html").write_text("<p>four")
    (tmp_path / "inner" / "e.pdf").write_bytes(make_pdf("five"))
    (tmp_path / "picture.png").write_bytes(b"\0")
    (tmp_path / "README").write_text("about")
    texts = [document.read().strip() for document in stream_text([tmp_path, tmp_path / "inner" / "c.txt"])]
    assert texts == ["one", "two", "one", "two", "three", "four", "five", "three"]
    named = [document.source for document in stream_text([tmp_path / "a.jsonl"])]
    assert named == [f"{tmp_path / 'a.jsonl'}, row 1", f"{tmp_path / 'a.jsonl'}, row 3"]


def test_rows_are_streamed_one_at_a_time() -> None:
    consumed: list[int] = []

    def rows() -> Iterator[dict[str, Any]]:
        for number in range(9):
            consumed.append(number)
            yield {"content": f"text {number}"}

    stream = stream_rows(rows(), key="content", name="dclm")
    first = next(stream)
    assert (first.read(), first.source, consumed) == ("text 0", "dclm, row 1", [0])


def test_unreadable_files_and_rows_are_reported(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"content": "two"}\n')
    stream = stream_text([tmp_path / "a.jsonl"])
    next(stream)
    with pytest.raises(DataError, match=r"a.jsonl, row 2: 'text' is missing; expected: a string"):
        next(stream)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.png").write_bytes(b"\0")
    with pytest.raises(DataError, match=r"no readable file \(.jsonl, .json, .parquet, .txt, .*\) in the folder"):
        next(stream_text([tmp_path / "empty"]))
    with pytest.raises(DataError, match="does not exist; give an existing file"):
        next(stream_text([tmp_path / "missing.txt"]))
    with pytest.raises(DataError, match="no data file at"):
        next(stream_text([tmp_path / "missing.jsonl"]))
