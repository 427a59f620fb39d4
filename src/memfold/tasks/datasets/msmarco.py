"""MS MARCO question answering (v1.1, v2.1): search queries with ten passages, and answers written by human judges.

Questions without an answer ("No Answer Present.", or an empty list) are skipped.  Well-formed answers are accepted in
addition to the others.  The evidence consists of the whole passages that the judge used.
"""

from __future__ import annotations

from collections.abc import Iterator

from memfold.core.document import Document
from memfold.core.types import Sample
from memfold.tasks.datasets.layout import distinct, in_order, lay_out
from memfold.tasks.datasets.rows import Row

NO_ANSWER = "No Answer Present."


def msmarco(row: Row) -> Iterator[Sample | None]:
    """One query; its kind is the query type of MS MARCO."""
    answers = distinct(answer for answer in row.texts("answers") if answer.strip() != NO_ANSWER)
    if not answers:
        yield None
        return
    # without well-formed answers, the field is the string "[]"
    well_formed = row.texts("wellFormedAnswers") if isinstance(row.values.get("wellFormedAnswers"), list) else ()
    passages = row.rows("passages")
    if not passages:
        raise row.wrong("passages", "at least one passage")
    text, spans = lay_out(("", [passage.text("passage_text")]) for passage in passages)
    selected = (span for passage, (span,) in zip(passages, spans, strict=True) if passage.flag("is_selected"))
    yield Sample(
        task="ms-marco",
        document=Document(f"ms-marco-{row.name('query_id')}", text=text),
        question=row.text("query").strip(),
        answers=distinct([*answers, *well_formed]),
        target=answers[0],
        evidence=in_order(selected),
        kind=row.string("query_type").lower() if row.has("query_type") else "",
        hops=1,
    )
