"""docs/reinforcement.md: models before and after reinforcement learning, on the same questions."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import reinforcement
from reinforcement_page import render
from reinforcement_statistics import Comparison, read_comparisons

HALF = {"a": 1.0, "b": 0.0, "c": 1.0, "d": 0.0}
NONE, ALL = dict.fromkeys(HALF, 0.0), dict.fromkeys(HALF, 1.0)


def overview(page: str) -> list[str]:
    """The lines of the table that shows comparisons side by side."""
    sections = page.split("\n## ")
    return next(section for section in sections if section.startswith("After reinforcement learning")).splitlines()


def last_row(lines: list[str]) -> list[str]:
    """The cells of the last row without their intervals."""
    return [cell.partition(" [")[0].strip() for cell in lines[-1].split("|")[1:-1]]


def test_the_page_is_made_of_the_files(comparison: Comparison, tmp_path: Path) -> None:
    assert "Nothing has been compared yet." in render(read_comparisons(tmp_path))
    (tmp_path / "frozen-16x.json").write_text(json.dumps(asdict(comparison)))
    page = render(read_comparisons(tmp_path))
    assert "## frozen-16x: pooled:16" in page
    training = "10 steps of 2.0 s, mean reward 0.400 in the first 20 and 0.500 in the last"
    assert f"`rl 2` is runs/rl-other, {training}" in page
    assert "Measured on Some CPU at commit abc." in page
    assert "| two-hop | 50.0 % [15.0, 85.0] n=4 | 100.0 % [51.0, 100.0] n=4 | 100.0 %" in page
    assert "## frozen-16x: implicit expansion\n\n| system | replies that expand |" in page
    assert "| sft | 25.0 % n=4 |" in page


def test_the_page_of_the_repository_is_that_of_its_files() -> None:
    message = "run python benchmarks/reinforcement.py"
    page = render(read_comparisons(reinforcement.RESULTS))
    assert reinforcement.PAGE.read_text(encoding="utf-8") == page, message


def test_comparisons_stand_beside_each_other(comparison: Comparison) -> None:
    later = replace(comparison, name="frozen-64x", outcomes={"one hop": {"sft": NONE, "rl 1": NONE, "rl 2": HALF}})
    lines = overview(render([comparison, later]))
    assert "| questions | frozen-16x | frozen-64x | frozen-64x - frozen-16x |" in lines
    assert last_row(lines) == ["one hop", "75.0 %", "25.0 %", "-50.0 %"]
    first = replace(
        comparison,
        name="end-to-end-16x",
        models={"sft": "runs/sft", "rl 1": "runs/rl"},
        trained={"rl 1": comparison.trained["rl 1"]},
        outcomes={"two hops": {"sft": NONE, "rl 1": ALL}},
    )
    lines = overview(render([first, comparison, later]))
    columns = "frozen-16x | end-to-end-16x | frozen-64x | end-to-end-16x - frozen-16x | frozen-64x - frozen-16x |"
    assert f"| questions | {columns}" in lines
    assert last_row(lines) == ["one hop", "75.0 %", "-", "25.0 %", "-", "-50.0 %"]


def test_failed_replies_are_counted(comparison: Comparison) -> None:
    assert "failed" not in render([comparison])
    assert "count as wrong: sft: 0, rl 1: 3." in render([replace(comparison, failed={"sft": 0, "rl 1": 3})])
