from collections.abc import Callable
from pathlib import Path

import pytest
from all_knowing import KnowsEverything

from memfold.evaluation.comparison import comparisons
from memfold.evaluation.records import Record
from memfold.evaluation.report import write_report
from memfold.evaluation.runner import Evaluation, run

Evaluate = Callable[..., Evaluation]


def record(system: str, case: str, correct: bool, split: str = "in") -> Record:
    return Record(case, system, "almanac", 1, 128, split, "one-hop", 1, "?", ("x",), "", "", correct)


def test_pairs_of_systems_on_the_questions_of_both() -> None:
    full = [record("full", str(n), n != 9) for n in range(10)] + [record("full", "more", True)]
    pooled = [record("pooled", str(n), n >= 7) for n in range(10)]
    late = [record("retrieval", "0", True), record("full", "o", True, "out")]
    inside, outside = comparisons([*full, *pooled, *late], ["full", "pooled", "retrieval"])
    rows = {row.names: row.cells for row in inside.rows}
    assert list(rows) == [("full", "pooled"), ("full", "retrieval"), ("pooled", "retrieval")]
    first, second, gap, p = rows["full", "pooled"]
    assert (first.value, second.value, first.count) == (0.7, 0.1, 10)
    assert (gap.value, gap.count) == (pytest.approx(0.6), 10)
    assert gap.low is not None
    assert 0 < gap.low < 0.6 < (gap.high or 0)
    assert p.value == pytest.approx(2 * 9 / 256)
    assert [cell.value for cell in rows["pooled", "retrieval"]] == [0.0, 1.0, -1.0, 1.0]
    assert [cell.value for row in outside.rows for cell in row.cells] == [None] * 12


def test_one_system_is_compared_with_nobody() -> None:
    assert comparisons([record("full", "a", True)], ["full"]) == []


def test_a_report_of_two_systems_compares_them(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluation = evaluate("full", "pooled:4", splits=("in",))
    write_report(evaluation, run(evaluation, tmp_path, KnowsEverything(evaluation)), tmp_path, 0.0)
    text = (tmp_path / "table.md").read_text()
    assert "## Between systems, split in" in text
    row = next(line for line in text.splitlines() if line.startswith("| full | pooled:4 |"))
    assert row.endswith("| 0.0 % [0.0, 32.4] n=8 | 0.0 % [0.0, 0.0] n=8 | 1.000 n=8 |")
