"""Groups records by system and document length, for the rows of a table and the lines of a plot."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from memfold.evaluation.records import Record
from memfold.evaluation.table import Cell, Row, Table, difference

ALL = "all"

Group = Sequence[Record]


def of_system(records: Group, label: str, length: int | None = None) -> list[Record]:
    """Return the records of one system, of one length or (None) of all."""
    return [record for record in records if record.system == label and length in (None, record.size)]


def lengths(records: Group) -> list[int | None]:
    """Return the lengths in their order, and before them None for all together when there are several."""
    sizes: list[int | None] = [*sorted({record.size for record in records})]
    return [None, *sizes] if len(sizes) > 1 else sizes


def shown(length: int | None) -> str:
    """Return a length as a table writes it."""
    return ALL if length is None else str(length)


def in_order(found: Iterable[str], known: Collection[str]) -> list[str]:
    """Return each name once: the known ones in their order, then others, such as datasets, in that of the alphabet.

    >>> in_order(["two-hop", "one-hop", "two-hop", "squad"], ("one-hop", "two-hop", "tracking"))
    ['one-hop', 'two-hop', 'squad']
    """
    names = set(found)
    return [name for name in known if name in names] + sorted(names.difference(known))


def splits(records: Group) -> list[tuple[str, list[Record]]]:
    """Return the records of each split, in the order in which splits appear."""
    names = dict.fromkeys(record.split for record in records)
    return [(name, [record for record in records if record.split == name]) for name in names]


def failures(records: Group) -> int:
    """Return the number of records that ended in an error."""
    return sum(record.error is not None for record in records)


def grid(
    records: Group,
    labels: Sequence[str],
    cells: Callable[[Group], Sequence[Cell]],
    name: Callable[[int | None], str] = shown,
) -> tuple[Row, ...]:
    """Return a row for each length and system, the systems of one length below each other; `name` writes lengths."""
    return tuple(
        Row((name(length), label), tuple(cells(of_system(records, label, length))))
        for length in lengths(records)
        for label in labels
    )


def curves(records: Group, labels: Sequence[str], cell: Callable[[Group], Cell]) -> dict[str, list[tuple[float, Cell]]]:
    """Return a figure over document length for each system."""
    sizes = sorted({record.size for record in records})
    return {label: [(size, cell(of_system(records, label, size))) for size in sizes] for label in labels}


def lost_with_length(records: Group, labels: Sequence[str], split: str, right: Callable[[Group], Cell]) -> list[Table]:
    """Return a table of right answers at the shortest and at the longest length; none if there is only one length."""
    sizes = sorted({record.size for record in records})
    if len(sizes) < 2:
        return []
    rows = []
    for label in labels:
        short, long = (of_system(records, label, size) for size in (sizes[0], sizes[-1]))
        lost = difference([record.correct for record in short], [record.correct for record in long])
        rows.append(Row((label,), (right(short), right(long), lost)))
    columns = (f"{sizes[0]} tokens", f"{sizes[-1]} tokens", "lost")
    return [Table(f"From the shortest to the longest, split {split}", ("system",), columns, tuple(rows))]
