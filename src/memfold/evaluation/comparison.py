"""Tests for every pair of systems whether one is better on the questions that both were asked, or only by chance."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from memfold.evaluation.grouping import Group, of_system, splits
from memfold.evaluation.records import Record
from memfold.evaluation.table import Cell, Row, Table, mean, proportion
from memfold.scoring.pairs import discordant, mcnemar

COLUMNS = ("first alone right", "second alone right", "difference", "McNemar p")
NOTE = (
    "On the questions that both were asked.  Difference of the shares of right answers, interval by the paired "
    "bootstrap; p of the exact McNemar test, two-sided, not corrected for the number of rows."
)


def comparisons(records: Sequence[Record], labels: Sequence[str]) -> list[Table]:
    """Return a table for each split with a row for every pair of systems; none for a single system."""
    pairs = list(combinations(labels, 2))
    tables = [
        Table(
            f"Between systems, split {split}",
            ("first", "second"),
            COLUMNS,
            tuple(Row(pair, _cells(of_system(group, pair[0]), of_system(group, pair[1]))) for pair in pairs),
            NOTE,
        )
        for split, group in splits(records)
    ]
    return tables if pairs else []


def _cells(first: Group, second: Group) -> tuple[Cell, ...]:
    outcomes = {record.case: record.correct for record in second}
    pairs = [(record.correct, outcomes[record.case]) for record in first if record.case in outcomes]
    if not pairs:
        return (Cell(None),) * len(COLUMNS)
    gap = mean([float(left) - float(right) for left, right in pairs], share=True)
    p = mcnemar(*discordant([left for left, _ in pairs], [right for _, right in pairs]))
    return (
        proportion([left and not right for left, right in pairs]),
        proportion([right and not left for left, right in pairs]),
        gap,
        Cell(p, count=len(pairs), share=False),
    )
