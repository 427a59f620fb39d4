"""LongBench v2: multiple-choice questions about contexts of 8,000 to two million words.

The choices are part of the question.  The letter and the text of the correct choice are accepted as answers.  The
dataset marks no evidence.
"""

from __future__ import annotations

from collections.abc import Iterator

from memfold.core.document import Document
from memfold.core.types import Sample
from memfold.tasks.datasets.layout import distinct
from memfold.tasks.datasets.rows import Row

LETTERS = ("A", "B", "C", "D")


def longbench(row: Row) -> Iterator[Sample]:
    """One question; its kind is the domain."""
    letter = row.text("answer").strip()
    if letter not in LETTERS:
        raise row.wrong("answer", ", ".join(LETTERS))
    choices = {name: row.text(f"choice_{name}").strip() for name in LETTERS}
    lines = [row.text("question").strip(), *(f"({name}) {choice}" for name, choice in choices.items())]
    yield Sample(
        task="longbench-v2",
        document=Document(f"longbench-v2-{row.name('_id')}", text=row.text("context")),
        question="\n".join(lines),
        answers=distinct([letter, choices[letter]]),
        target=letter,
        kind=row.string("domain") if row.has("domain") else "",
    )
