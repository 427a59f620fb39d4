"""BioASQ task B: biomedical questions with snippets of abstracts that experts chose for them.

The document consists of these snippets without duplicates.  All of it is evidence, so none is marked.  Questions that
ask for a summary have no exact answer and are skipped.  Each item of a list is represented by its first synonym.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from memfold.core.document import Document
from memfold.core.types import Sample
from memfold.tasks.datasets.layout import distinct, lay_out, with_target
from memfold.tasks.datasets.rows import Row

KINDS = {"yesno": "yes-no", "factoid": "extractive", "list": "listing"}


def bioasq(row: Row) -> Iterator[Sample | None]:
    """One question."""
    kind = row.text("type")
    if kind == "summary":
        yield None
        return
    if kind not in KINDS:
        raise row.wrong("type", ", ".join([*KINDS, "summary"]))
    snippets = distinct(snippet.string("text") for snippet in row.rows("snippets"))
    if not snippets:
        raise row.wrong("snippets", "at least one snippet with text")
    text, _ = lay_out(("", [snippet]) for snippet in snippets)
    sample = Sample(
        task="bioasq",
        document=Document(f"bioasq-{row.name('id')}", text=text),
        question=row.text("body").strip(),
        answers=_answers(row, kind),
        kind=KINDS[kind],
        hops=1,
    )
    yield with_target(sample)


def _answers(row: Row, kind: str) -> tuple[str, ...]:
    """The items of a list question; for other kinds, all accepted answers.

    The field is a string, a list of strings, or a list of lists of synonyms.
    """
    value = row.values.get("exact_answer")
    items = [list(_strings(item)) for item in value] if isinstance(value, list) else [list(_strings(value))]
    answers = distinct(synonym for item in items for synonym in (item[:1] if kind == "list" else item))
    if not answers:
        raise row.wrong("exact_answer", "an answer: a string, a list of strings, or a list of such lists")
    return tuple(answer.lower() for answer in answers) if kind == "yesno" else answers


def _strings(value: Any) -> Iterator[str]:
    """All strings in a value, including those in nested lists."""
    if isinstance(value, str):
        yield value
    for item in value if isinstance(value, list) else ():
        yield from _strings(item)
