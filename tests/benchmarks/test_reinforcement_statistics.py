"""Statistics of models before and after reinforcement learning, against values by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reinforcement_statistics import Comparison, accuracy_table, gains_table, read_comparisons, training_summary

from memfold.core.errors import DataError


def cells_by_column(comparison: Comparison) -> dict[str, str]:
    """The cells of the only row of both tables, without intervals."""
    cells = {}
    for table in (accuracy_table(comparison), gains_table(comparison)):
        (row,) = table.rows
        cells |= dict(zip(table.columns, (cell.markdown().partition(" [")[0] for cell in row.cells), strict=True))
    return cells


def test_a_row_by_hand(comparison: Comparison) -> None:
    assert cells_by_column(comparison) == {
        "full": "100.0 %",
        "retrieval": "50.0 %",
        "sft bare": "-",
        "sft recall": "0.0 %",
        "sft": "50.0 %",
        "rl": "75.0 %",
        "rl - sft": "25.0 %",
        "rl - sft bare": "-",
        "rl - sft recall": "75.0 %",
        "sft / full": "50.0 %",
        "rl / full": "75.0 %",
        "rl 1 alone": "100.0 %",
        "rl 2 alone": "50.0 %",
    }


def test_questions_that_one_model_was_not_asked_are_left_out_of_its_comparisons(comparison: Comparison) -> None:
    right = dict.fromkeys("abcd", 1.0)
    outcomes = {"sft": {"a": 1.0}, "rl 1": right, "rl 2": right, "full": {"a": 1.0, "z": 1.0}}
    cells = cells_by_column(replace(comparison, outcomes={"one hop": outcomes}))
    assert (cells["rl - sft"], cells["rl / full"]) == ("0.0 %", "100.0 %")
    assert cells["retrieval"] == "-"


def test_a_single_run_has_no_separate_column(comparison: Comparison) -> None:
    cells = cells_by_column(replace(comparison, models={"sft": "runs/sft", "rl 1": "runs/rl"}))
    assert cells["rl"] == "100.0 %"
    assert "rl 1 alone" not in cells


def test_a_file_that_is_not_a_comparison_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(DataError, match=r"other\.json is not a comparison"):
        read_comparisons(tmp_path)


def test_the_summary_of_a_training_run(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{"step": 0, "figures": {}, "rewards": {}, "validation": {}}]
    for step in range(1, 41):
        seconds = {"rollout": 1.5, "update": 0.5}
        lines.append({"step": step, "figures": {"reward": step / 100}, "seconds": seconds})
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    summary = training_summary(tmp_path)
    assert summary == pytest.approx({"steps": 40, "seconds": 2.0, "first": 0.105, "last": 0.305})
