"""SQuAD 1.1 and 2.0: questions about one paragraph, answered by a stretch of it.

Reads the published JSON, where a row is an article with its paragraphs and questions, and flat rows of one question, as
the `datasets` library has them.  Questions without an answer (2.0) are skipped.  The evidence is the first annotator's
stretch; sentences are not marked.
"""

from __future__ import annotations

from collections.abc import Iterator

from memfold.core.document import Document
from memfold.core.types import Sample, Span
from memfold.tasks.datasets.layout import distinct
from memfold.tasks.datasets.rows import Row


def squad(row: Row) -> Iterator[Sample | None]:
    """The questions of an article, or the one of a flat row; those about one paragraph share its document."""
    if not row.has("paragraphs"):
        yield _sample(row, Document(f"squad-{row.name('id')}", text=row.text("context")))
        return
    title = row.name("title")
    for number, paragraph in enumerate(row.rows("paragraphs")):
        document = Document(f"squad-{title}-{number}", text=paragraph.text("context"))
        for question in paragraph.rows("qas"):
            yield _sample(question, document)


def _sample(row: Row, document: Document) -> Sample | None:
    answers = row.rows("answers", ("text", "answer_start"))
    if not answers or (row.has("is_impossible") and row.flag("is_impossible")):
        return None
    given, start = answers[0].text("text"), answers[0].number("answer_start")
    if document.read()[start : start + len(given)] != given or start < 0:
        raise answers[0].wrong("answer_start", f"the place of {given!r} in the paragraph")
    return Sample(
        task="squad",
        document=document,
        question=row.text("question").strip(),
        answers=distinct(answer.text("text") for answer in answers),
        target=given.strip(),
        evidence=(Span(start, start + len(given)),),
        kind="extractive",
        hops=1,
    )
