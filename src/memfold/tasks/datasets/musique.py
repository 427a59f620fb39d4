"""MuSiQue: questions of two to four hops over twenty paragraphs.

The evidence consists of the whole supporting paragraphs.  The dataset marks no sentences, so `support` is empty.
MuSiQue-Full has additional questions that its paragraphs do not answer (`answerable` is false); they are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator

from memfold.core.document import Document
from memfold.core.types import Sample
from memfold.tasks.datasets.layout import distinct, in_order, lay_out
from memfold.tasks.datasets.rows import Row


def musique(row: Row) -> Iterator[Sample | None]:
    """One question; its kind is the dataset's name for the form of its decomposition ("3hop1")."""
    if row.has("answerable") and not row.flag("answerable"):
        yield None
        return
    paragraphs = row.rows("paragraphs")
    if not paragraphs:
        raise row.wrong("paragraphs", "at least one paragraph")
    text, spans = lay_out((paragraph.string("title"), [paragraph.text("paragraph_text")]) for paragraph in paragraphs)
    supporting = (span for paragraph, (span,) in zip(paragraphs, spans, strict=True) if paragraph.flag("is_supporting"))
    aliases = row.texts("answer_aliases") if row.has("answer_aliases") else ()
    name = row.name("id")
    yield Sample(
        task="musique",
        document=Document(f"musique-{name}", text=text),
        question=row.text("question").strip(),
        answers=distinct([row.text("answer"), *aliases]),
        target=row.text("answer").strip(),
        evidence=in_order(supporting),
        kind=name.partition("__")[0] if "__" in name else "",
        hops=len(row.rows("question_decomposition")),
    )
