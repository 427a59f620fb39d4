"""Opens the documents that a command names (`-` is standard input), and tells what is folded and what is skipped."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from memfold.cli.printable import on_one_line
from memfold.core.errors import DataError

if TYPE_CHECKING:
    from memfold.sources import Inputs, Known, Skipped

SHOWN = 20  # lines for the documents of folders, and for what is skipped


def open_inputs(names: Sequence[str]) -> Inputs:
    """Return the documents in the order of their names, each of them checked.

    Raises:
        DataError: for a named file that cannot be read, or a folder without a file that can be read.
    """
    from memfold.sources import STDIN, gather

    if STDIN not in names:
        return gather(names)
    if sys.stdin is None:  # as in a service
        raise DataError("standard input is closed; name a file")
    return gather(names, sys.stdin.buffer)


def distinct_inputs(inputs: Inputs, stored: Known | None = None, where: str = "") -> Inputs:
    """Return each text once, without those that a memory file holds; lines on standard error tell what is skipped.

    If a folder was named, the lines also name the documents.
    """
    from memfold.sources import distinct

    found = distinct(inputs, stored, where)
    lines = [f"folding {document.source}" for document in found.documents] if found.searched else []
    show_lines(lines, "folding")
    show_lines([f"skipped: {each}" for each in found.skipped], "skipped:")
    return found


def records(skipped: Sequence[Skipped]) -> list[dict[str, Any]]:
    """Return what was skipped as `--json` prints it."""
    return [asdict(each) for each in skipped]


def show_lines(lines: Sequence[str], label: str) -> None:
    """Print lines on standard error; of many, the first ones, and after the `label` how many there are more."""
    from memfold.cli.output import notes

    more = [f"{label} {len(lines) - SHOWN:,} more"] if len(lines) > SHOWN else []
    for line in (*lines[:SHOWN], *more):
        notes().print(on_one_line(line), markup=False)
