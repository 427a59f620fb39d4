"""docs/reinforcement.md: models after reinforcement learning beside the one before, on the same questions."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import reinforcement
from reinforcement import Asking, Comparison, figures, gains, page, read

from memfold.core.errors import ConfigError, DataError
from memfold.evaluation.expansion import COLUMNS as EXPANSION
from memfold.evaluation.records import Record
from memfold.evaluation.suite import load_suite

HALF = {"a": 1.0, "b": 0.0, "c": 1.0, "d": 0.0}
NONE, ALL = dict.fromkeys("abcd", 0.0), dict.fromkeys("abcd", 1.0)
CELL = {"value": 0.25, "low": None, "high": None, "count": 4, "failed": 0, "share": True}


@pytest.fixture
def found() -> Comparison:
    spent = {"steps": 10.0, "seconds": 2.0, "first": 0.4, "last": 0.5}
    return Comparison(
        name="frozen-16x", system="pooled:16",
        models={"sft": "runs/sft", "rl 1": "runs/rl", "rl 2": "runs/rl-other"},
        trained={"rl 1": spent, "rl 2": spent},
        outcomes={
            "one hop": {
                "full": ALL, "retrieval": HALF, "sft": HALF, "sft recall": NONE, "rl 1": ALL, "rl 2": HALF,
            },
        },
        recalls={"two-hop": {"sft": HALF, "rl 1": ALL, "rl 2": ALL}},
        failed={"sft": 0, "rl 1": 0},
        expansion={"title": "Implicit expansion", "names": ["system"], "columns": list(EXPANSION),
                   "rows": [{"names": ["sft"], "cells": [CELL] * len(EXPANSION)}], "note": "A note."},
        commit="abc", hardware={"cpu": "Some CPU"},
    )  # fmt: skip


def shown(found: Comparison) -> dict[str, str]:
    """The cells of the only row of both tables, by what stands over them, without intervals."""
    cells = {}
    for table in (figures(found), gains(found)):
        (row,) = table.rows
        cells |= dict(zip(table.columns, (cell.markdown().partition(" [")[0] for cell in row.cells), strict=True))
    return cells


def test_a_row_by_hand(found: Comparison) -> None:
    assert shown(found) == {
        "full": "100.0 %", "retrieval": "50.0 %", "sft bare": "-", "sft recall": "0.0 %", "sft": "50.0 %",
        "rl": "75.0 %", "rl - sft": "25.0 %", "rl - sft bare": "-", "rl - sft recall": "75.0 %",
        "sft of full": "50.0 %", "rl of full": "75.0 %", "rl 1 alone": "100.0 %", "rl 2 alone": "50.0 %",
    }  # fmt: skip


def test_questions_that_one_was_not_asked_are_left_out_of_what_compares_them(found: Comparison) -> None:
    outcomes = {"sft": {"a": 1.0}, "rl 1": ALL, "rl 2": ALL, "full": {"a": 1.0, "z": 1.0}}
    cells = shown(replace(found, outcomes={"one hop": outcomes}))
    assert (cells["rl - sft"], cells["rl of full"]) == ("0.0 %", "100.0 %")
    assert cells["retrieval"] == "-"


def test_a_single_run_has_no_columns_of_its_own(found: Comparison) -> None:
    alone = replace(found, models={"sft": "runs/sft", "rl 1": "runs/rl"})
    assert shown(alone)["rl"] == "100.0 %"
    assert "rl 1 alone" not in shown(alone)


def test_the_page_is_made_of_the_files(found: Comparison, tmp_path: Path) -> None:
    assert "Nothing has been compared yet." in page(read(tmp_path))
    (tmp_path / "frozen-16x.json").write_text(json.dumps(asdict(found)))
    written = page(read(tmp_path))
    assert "## frozen-16x: pooled:16" in written
    assert (
        "`rl 2` is runs/rl-other, 10 steps of 2.0 s, mean reward 0.400 in the first 20 and 0.500 in the last" in written
    )
    assert "| two-hop | 50.0 % [15.0, 85.0] n=4 | 100.0 % [51.0, 100.0] n=4 | 100.0 %" in written
    assert "## frozen-16x: implicit expansion\n\nA note." in written
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(DataError, match=r"other\.json is no comparison"):
        read(tmp_path)


def test_the_page_of_the_repository_is_that_of_its_files() -> None:
    message = "run python benchmarks/reinforcement.py"
    assert reinforcement.PAGE.read_text(encoding="utf-8") == page(read(reinforcement.RESULTS)), message


def test_every_suite_takes_what_it_is_asked() -> None:
    parts = reinforcement.asked(1000)
    for part in parts:
        load_suite(part.suite).check(part.options)
    rows = [row for part in parts for row in part.rows]
    assert len(rows) == len(set(rows))
    assert sum(part.expansion for part in parts) == 1


def test_comparisons_stand_beside_each_other(found: Comparison) -> None:
    later = replace(found, name="frozen-64x", outcomes={"one hop": {"sft": NONE, "rl 1": NONE, "rl 2": HALF}})
    written = page([found, later])
    beside = next(part for part in written.split("\n## ") if part.startswith("After reinforcement learning"))
    assert "| asked | frozen-16x | frozen-64x | frozen-64x - frozen-16x |" in beside
    cells = [cell.partition(" [")[0].strip() for cell in beside.splitlines()[-1].split("|")[1:-1]]
    assert cells == ["one hop", "75.0 %", "25.0 %", "-50.0 %"]
    one_seed = {"models": {"sft": "runs/sft", "rl 1": "runs/rl"}, "trained": {"rl 1": found.trained["rl 1"]}}
    first = replace(found, name="end-to-end-16x", outcomes={"two hops": {"sft": NONE, "rl 1": ALL}}, **one_seed)  # type: ignore[arg-type]
    written = page([first, found, later])
    beside = next(part for part in written.split("\n## ") if part.startswith("After reinforcement learning"))
    columns = "frozen-16x | end-to-end-16x | frozen-64x | end-to-end-16x - frozen-16x | frozen-64x - frozen-16x |"
    assert f"| asked | {columns}" in beside
    cells = [cell.partition(" [")[0].strip() for cell in beside.splitlines()[-1].split("|")[1:-1]]
    assert cells == ["one hop", "75.0 %", "-", "25.0 %", "-", "-50.0 %"]


def test_failures_are_told(found: Comparison) -> None:
    assert "failed" not in page([found])
    assert "count as wrong: sft 0, rl 1 3." in page([replace(found, failed={"sft": 0, "rl 1": 3})])


@pytest.mark.parametrize(("asking", "expected"), [
    (Asking(), {"a": 1.0, "b": 0.0, "c": 0.0}), (Asking(hops=2), {"b": 0.0}),
    (Asking(sizes=(50, 100)), {"a": 1.0, "b": 0.0}),
    (Asking(figure="score", of=10), {"a": 0.9, "b": 0.0, "c": 0.4}),
])  # fmt: skip
def test_the_records_of_a_row(asking: Asking, expected: dict[str, float]) -> None:
    def record(case: str, size: int, hops: int, correct: bool, figures: dict[str, float]) -> Record:
        return Record(
            case, "pooled", "needle", 1, size, "in", "", hops, "Who?", ("x",), "x", "x", correct, figures=figures
        )

    records = [
        record("a", 50, 1, True, {"score": 9}),
        record("b", 100, 2, False, {}),
        record("c", 900, 1, False, {"score": 4}),
    ]
    assert asking.values(records) == pytest.approx(expected)


def test_what_is_no_run_is_refused_before_anything_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ConfigError, match="is no run of reinforcement learning"):
        reinforcement.compare("x", {"sft": tmp_path, "rl 1": tmp_path}, 16, reinforcement.asked(1000), tmp_path / "out")


def test_what_a_run_has_spent(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{"step": 0, "figures": {}, "rewards": {}, "validation": {}}] + [
        {"step": step, "figures": {"reward": step / 100}, "seconds": {"rollout": 1.5, "update": 0.5}}
        for step in range(1, 41)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    spent = reinforcement.spent(tmp_path)
    assert spent == pytest.approx({"steps": 40, "seconds": 2.0, "first": 0.105, "last": 0.305})
