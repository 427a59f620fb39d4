"""What a section of docs/results.md takes from a result file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from memfold.evaluation.table import Cell

Json = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """The rows of a table, whether the target is reached (None if that cannot be decided), and the figure behind it."""

    rows: list[list[str]]
    reached: bool | None
    summary: str


def only_result(file: Json) -> Json:
    """The result of a part that has one command."""
    result: Json
    (result,) = file["results"].values()
    return result


def table_of(result: Json, title: str) -> Json:
    """The first table of a result whose title begins with `title`."""
    table: Json = next(table for table in result["tables"] if table["title"].startswith(title))
    return table


def rows_of(file: Json, title: str) -> list[list[str]]:
    """The rows of a table as the page shows them."""
    return [[*row["names"], *map(cell_of, row["cells"])] for row in table_of(only_result(file), title)["rows"]]


def value_of(row: Json, column: int = 0) -> Any:
    """The figure of a cell; None if there was nothing to measure."""
    return row["cells"][column]["value"]


def cell_of(cell: Json) -> str:
    """A cell as the page shows it."""
    return Cell(**cell).markdown()
