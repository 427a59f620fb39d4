"""Defines figures with their sample size and 95 % interval, and the tables and plots made from them.

A cell holds data until the report formats it, so that Markdown, JSON and plots agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from memfold.scoring.intervals import average_interval, difference_interval, mean_interval, ratio_interval, wilson


@dataclass(frozen=True)
class Cell:
    """One figure over `count` samples, `failed` of which ended in an error and count as wrong.

    `value` is None where there was nothing to measure.  A `share` is shown in per cent.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    count: int = 0
    failed: int = 0
    share: bool = True

    def markdown(self) -> str:
        """Return the figure as a table shows it: `93.2 % [91.0, 95.0] n=250`."""
        if self.count and self.failed == self.count:
            return f"error n={self.count}"
        if self.value is None:
            return "-"
        scale, digits, unit = (100, 1, " %") if self.share else (1, 3 if self.value < 10 else 1, "")
        text = f"{scale * self.value:.{digits}f}{unit}"
        if self.low is not None and self.high is not None:
            text += f" [{scale * self.low:.{digits}f}, {scale * self.high:.{digits}f}]"
        text += f" n={self.count}"
        return f"{text}, {self.failed} failed" if self.failed else text


@dataclass(frozen=True)
class Row:
    """A line of a table: what names it, and its cells."""

    names: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """`names` head the columns that name a row, `columns` those of the cells."""

    title: str
    names: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""

    def markdown(self) -> str:
        """Return the table as Markdown, with its title and note."""
        heads = (*self.names, *self.columns)
        lines = [f"## {self.title}", "", *([self.note, ""] if self.note else [])]
        lines += [_line(heads), _line(["---"] * len(heads))]
        lines += [_line((*row.names, *(cell.markdown() for cell in row.cells))) for row in self.rows]
        return "\n".join(lines)


@dataclass(frozen=True)
class Figure:
    """A plot of lines with error bars: `panels` are (title, {label: [(x, cell)]}), next to each other."""

    name: str
    x_label: str
    panels: tuple[tuple[str, dict[str, list[tuple[float, Cell]]]], ...]


@dataclass(frozen=True)
class HeatMap:
    """A plot of one figure over two settings: `cells` has a row for each of `ys`, with a cell for each of `xs`.

    Colours run from `low` to `high`; the figure stands in its cell.
    """

    name: str
    title: str
    x_label: str
    xs: tuple[str, ...]
    y_label: str
    ys: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    low: float = 0.0
    high: float = 1.0


Plot = Figure | HeatMap


def proportion(outcomes: Sequence[float], failed: int = 0) -> Cell:
    """Return the share of true outcomes, or the mean of outcomes between 0 and 1, with its Wilson interval."""
    if not outcomes:
        return Cell(None)
    low, high = wilson(sum(outcomes), len(outcomes))
    return Cell(sum(outcomes) / len(outcomes), low, high, len(outcomes), failed)


def mean(values: Sequence[float], failed: int = 0, share: bool = False) -> Cell:
    """Return a mean with its bootstrap interval; a value that is not a number is left out."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return Cell(None, count=len(values), failed=failed)
    low, high = mean_interval(finite)
    return Cell(sum(finite) / len(finite), low, high, len(finite), failed, share)


def average(cells: Sequence[Cell]) -> Cell:
    """Return the average of shares of different samples, however large each is; none if one of them has no value."""
    count, failed = sum(cell.count for cell in cells), sum(cell.failed for cell in cells)
    known = [
        (cell.value, (cell.low, cell.high))
        for cell in cells
        if cell.value is not None and cell.low is not None and cell.high is not None
    ]
    if not cells or len(known) < len(cells):
        return Cell(None, count=count)
    low, high = average_interval(*zip(*known, strict=True))
    return Cell(sum(value for value, _ in known) / len(known), low, high, count, failed)


def difference(outcomes: Sequence[bool], others: Sequence[bool]) -> Cell:
    """Return the difference of two shares of different samples, with Newcombe's interval."""
    if not outcomes or not others:
        return Cell(None)
    low, high = difference_interval(sum(outcomes), len(outcomes), sum(others), len(others))
    value = sum(outcomes) / len(outcomes) - sum(others) / len(others)
    return Cell(value, low, high, len(outcomes) + len(others))


def paired_ratio(values: Sequence[bool], baseline: Sequence[bool]) -> Cell:
    """Return how the accuracy of one side compares with that of a baseline on the same samples."""
    if not values or not any(baseline):
        return Cell(None, count=len(values))
    low, high = ratio_interval(values, baseline) or (None, None)
    return Cell(sum(values) / sum(baseline), low, high, len(values))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
