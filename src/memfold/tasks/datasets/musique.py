"""MuSiQue: questions of two to four hops over twenty paragraphs.

The evidence is the supporting paragraphs as wholes; the dataset marks no sentences, so that `support` stays empty.
MuSiQue-Full also has questions that its paragraphs do not answer (`answerable` false): they are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator

from memfold.core.document import Document
from memfold.core.types import Sample
from memfold.tasks.datasets.layout import distinct, in_order, lay_out
from memfold.tasks.datasets.rows import Row


def musique(row: Row) -> Iterator[Sample | None]:
    """One question; its kind is the shape of its decomposition, as the dataset names it ("3hop1")."""
    if row.has("answerable") and not row.flag("answerable"):
        yield None
        return
    paragraphs = row.rows("paragraphs")
    if not paragraphs:
        raise row.wrong("paragraphs", "at least one paragraph")
    text, places = lay_out((one.string("title"), [one.text("paragraph_text")]) for one in paragraphs)
    supporting = (spans[0] for one, spans in zip(paragraphs, places, strict=True) if one.flag("is_supporting"))
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
