"""MS MARCO question answering (v1.1, v2.1): search queries with ten passages and answers in the judges' own words.

Questions that the judges found no answer to are skipped: "No Answer Present.", or an empty list.  Well-formed answers
are accepted beside the others.  The evidence is the passages that the judge used, as wholes.
"""

from __future__ import annotations

from collections.abc import Iterator

from memfold.core.document import Document
from memfold.core.types import Sample
from memfold.tasks.datasets.layout import distinct, in_order, lay_out
from memfold.tasks.datasets.rows import Row

NO_ANSWER = "No Answer Present."


def msmarco(row: Row) -> Iterator[Sample | None]:
    """One query; its kind is the type that MS MARCO gives it."""
    answers = distinct(answer for answer in row.texts("answers") if answer.strip() != NO_ANSWER)
    if not answers:
        yield None
        return
    # a query without well-formed answers has the string "[]" there
    well_formed = row.texts("wellFormedAnswers") if isinstance(row.values.get("wellFormedAnswers"), list) else ()
    passages = row.rows("passages")
    if not passages:
        raise row.wrong("passages", "at least one passage")
    text, places = lay_out(("", [one.text("passage_text")]) for one in passages)
    yield Sample(
        task="ms-marco",
        document=Document(f"ms-marco-{row.name('query_id')}", text=text),
        question=row.text("query").strip(),
        answers=distinct([*answers, *well_formed]),
        target=answers[0],
        evidence=in_order(spans[0] for one, spans in zip(passages, places, strict=True) if one.flag("is_selected")),
        kind=row.string("query_type").lower() if row.has("query_type") else "",
        hops=1,
    )
