"""What a section of docs/results.md takes from a result file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
