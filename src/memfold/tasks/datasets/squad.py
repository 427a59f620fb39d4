"""SQuAD 1.1 and 2.0: questions about one paragraph, answered by a span of it.

Reads the published JSON, where a row is an article with paragraphs and questions, and the flat rows of the `datasets`
library, with one question each.  Unanswerable questions (2.0) are skipped.  The evidence is the answer span of the
first annotator; sentences are not marked.
"""

from __future__ import annotations

from collections.abc import Iterator

from memfold.core.document import Document
from memfold.core.types import Sample, Span
from memfold.tasks.datasets.layout import distinct
from memfold.tasks.datasets.rows import Row


def squad(row: Row) -> Iterator[Sample | None]:
    """The questions of an article, or the question of a flat row; questions about one paragraph share a document."""
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
    first, start = answers[0].text("text"), answers[0].number("answer_start")
    if document.read()[start : start + len(first)] != first or start < 0:
        raise answers[0].wrong("answer_start", f"the position of {first!r} in the paragraph")
    return Sample(
        task="squad",
        document=document,
        question=row.text("question").strip(),
        answers=distinct(answer.text("text") for answer in answers),
        target=first.strip(),
        evidence=(Span(start, start + len(first)),),
        kind="extractive",
        hops=1,
    )
