"""HotpotQA, and 2WikiMultihopQA, which has the same rows: ten paragraphs, of which some sentences support the answer.

Reads the published JSON (`context` as [title, sentences], `supporting_facts` as [title, number]) and the columns of the
`datasets` library.  A supporting fact that names a sentence which is not there (both datasets have such) is left out.
"""

from __future__ import annotations

from collections.abc import Iterator

from memfold.core.document import Document
from memfold.core.types import Sample, Span
from memfold.tasks.datasets.layout import excerpts, in_order, lay_out
from memfold.tasks.datasets.rows import Row

HOPS = {"bridge_comparison": 4}  # two comparisons of two hops each; all other types have two


def hotpotqa(row: Row) -> Iterator[Sample]:
    """One question."""
    yield _sample(row, "hotpotqa")


def wikimultihopqa(row: Row) -> Iterator[Sample]:
    """One question."""
    yield _sample(row, "2wikimultihopqa")


def _sample(row: Row, task: str) -> Sample:
    paragraphs = [(one.text("title"), one.texts("sentences")) for one in row.rows("context", ("title", "sentences"))]
    if not paragraphs:
        raise row.wrong("context", "at least one paragraph")
    text, places = lay_out(paragraphs)
    titles = [title for title, _ in paragraphs]
    evidence = in_order(_supporting(row, titles, places))
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


def _supporting(row: Row, titles: list[str], places: list[list[Span]]) -> Iterator[Span]:
    """The places of the supporting sentences; of paragraphs with one title, the first that is long enough counts."""
    for fact in row.rows("supporting_facts", ("title", "sent_id")):
        title, number = fact.string("title"), fact.number("sent_id")
        named = (spans for name, spans in zip(titles, places, strict=True) if name == title)
        long_enough = [spans for spans in named if 0 <= number < len(spans)]
        yield from (spans[number] for spans in long_enough[:1])
