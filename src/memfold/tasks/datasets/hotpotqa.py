"""HotpotQA and 2WikiMultihopQA, which has the same format: ten paragraphs with marked supporting sentences.

Reads the published JSON (`context` as [title, sentences], `supporting_facts` as [title, number]) and the columns of the
`datasets` library.  Supporting facts that refer to a sentence that does not exist occur in both datasets and are
ignored.
"""

from __future__ import annotations

from collections.abc import Iterator

from memfold.core.document import Document
from memfold.core.types import Sample, Span
from memfold.tasks.datasets.layout import excerpts, in_order, lay_out
from memfold.tasks.datasets.rows import Row

HOPS = {"bridge_comparison": 4}  # a comparison of two bridges of two hops each; all other types have two hops


def hotpotqa(row: Row) -> Iterator[Sample]:
    """One question."""
    yield _sample(row, "hotpotqa")


def wikimultihopqa(row: Row) -> Iterator[Sample]:
    """One question."""
    yield _sample(row, "2wikimultihopqa")


def _sample(row: Row, task: str) -> Sample:
    records = row.rows("context", ("title", "sentences"))
    paragraphs = [(record.text("title"), record.texts("sentences")) for record in records]
    if not paragraphs:
        raise row.wrong("context", "at least one paragraph")
    text, spans = lay_out(paragraphs)
    titles = [title for title, _ in paragraphs]
    evidence = in_order(_supporting(row, titles, spans))
    answer, kind = row.text("answer").strip(), row.string("type") if row.has("type") else ""
    return Sample(
        task=task,
        document=Document(f"{task}-{row.name('_id', 'id')}", text=text),
        question=row.text("question").strip(),
        answers=(answer,),
        target=answer,
        evidence=evidence,
        support=excerpts(text, evidence),
        kind=kind,
        hops=HOPS.get(kind, 2),
    )


def _supporting(row: Row, titles: list[str], spans: list[list[Span]]) -> Iterator[Span]:
    """The spans of the supporting sentences, in the first paragraph with the title that has enough sentences."""
    for fact in row.rows("supporting_facts", ("title", "sent_id")):
        title, number = fact.string("title"), fact.number("sent_id")
        same_title = (sentences for name, sentences in zip(titles, spans, strict=True) if name == title)
        long_enough = [sentences for sentences in same_title if 0 <= number < len(sentences)]
        yield from (sentences[number] for sentences in long_enough[:1])
