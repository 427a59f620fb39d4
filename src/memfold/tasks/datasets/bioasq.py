"""BioASQ task B: biomedical questions with the snippets of abstracts that experts chose for them.

The document is those snippets, each once, so that all of it is evidence and none is marked.  Questions that ask for a
summary have no exact answer and are skipped.  Of a list each item counts by the first of its synonyms.
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
    """Of a list, its items; else all that is accepted, which is a string, strings, or lists of synonyms."""
    given = row.values.get("exact_answer")
    items = [list(_strings(item)) for item in given] if isinstance(given, list) else [list(_strings(given))]
    found = distinct(synonym for item in items for synonym in (item[:1] if kind == "list" else item))
    if not found:
        raise row.wrong("exact_answer", "an answer: a string, a list of strings, or a list of such lists")
    return tuple(answer.lower() for answer in found) if kind == "yesno" else found


def _strings(value: Any) -> Iterator[str]:
    """The strings in a value, however lists nest in it."""
    if isinstance(value, str):
        yield value
    for one in value if isinstance(value, list) else ():
        yield from _strings(one)
