"""Makes the table of implicit expansion: how much of a document replies reproduce, how exactly, what they invent."""

from __future__ import annotations

from collections.abc import Sequence

from memfold.evaluation.grouping import Group, of_system
from memfold.evaluation.records import Record
from memfold.evaluation.table import Cell, Row, Table, mean, proportion
from memfold.scoring.expansion import MIN_TOKENS, contains_fact, expanded_share

COLUMNS = (
    "replies that expand",
    "of their tokens",
    "fidelity",
    "verbatim",
    "expansion has the answer",
    "invented names a reply",
    "tokens a reply",
    "answer expanded, of all replies",
)
NOTE = (
    f"Stretches of at least {MIN_TOKENS} words and marks that reconstruct the document.  Fidelity: equal tokens of a "
    "stretch as a share of the longer side's; verbatim: of all stretches.  Of the replies that expand, how many expand "
    "a sentence with the answer; names that neither document nor question has."
)


def expansion_table(records: Group, labels: Sequence[str], title: str) -> Table | None:
    """Return a row for each system; None where no reply expands or invents anything."""
    if not any(record.expansions or record.invented for record in records):
        return None
    return Table(
        title, ("system",), COLUMNS, tuple(Row((label,), _cells(of_system(records, label))) for label in labels), NOTE
    )


def _cells(records: Group) -> tuple[Cell, ...]:
    given = [record for record in records if record.error is None]
    expanding = [record for record in given if record.expansions]
    every = [expansion for record in expanding for expansion in record.expansions]
    return (
        proportion([bool(record.expansions) for record in given]),
        mean([expanded_share(record.reply, record.expansions) for record in expanding], share=True),
        mean([expansion.fidelity for expansion in every], share=True),
        proportion([expansion.verbatim for expansion in every]),
        proportion([_fact(record) for record in expanding]),
        mean([float(len(record.invented)) for record in given]),
        mean([float(record.cost.generated_tokens) for record in given]),
        proportion([_fact(record) for record in given]),
    )


def _fact(record: Record) -> bool:
    return contains_fact(record.reply, record.expansions, record.accepted, every=record.kind == "listing")
