"""TriviaQA, reading comprehension: trivia questions with Wikipedia pages and web pages that were found for them.

Reads the rows of the `datasets` library, which contain the pages, and the published JSON of `qa/`, whose pages are
files in the folder `evidence/` next to it; pages whose file is missing are skipped.  The dataset marks no evidence.
"""

from __future__ import annotations

from collections.abc import Iterator

from memfold.core.document import Document
from memfold.core.errors import DataError
from memfold.core.types import Sample
from memfold.tasks.datasets.layout import distinct, lay_out
from memfold.tasks.datasets.rows import Row

# field with the pages -> field with the text of a page
PAGES = {"entity_pages": "wiki_context", "search_results": "search_context"}
# in the published JSON: field with the pages -> folder with their files
FILES = {"EntityPages": "wikipedia", "SearchResults": "web"}


def triviaqa(row: Row) -> Iterator[Sample]:
    """One question over all its pages."""
    published = row.has("QuestionId")
    pages = list(_files(row) if published else _pages(row))
    if not pages:
        raise row.wrong("EntityPages" if published else "entity_pages", "at least one page with its text")
    answer = row.row("Answer" if published else "answer")
    value = answer.text("Value" if published else "value").strip()
    text, _ = lay_out(pages)
    yield Sample(
        task="triviaqa",
        document=Document(f"triviaqa-{row.name('QuestionId', 'question_id')}", text=text),
        question=row.text("Question" if published else "question").strip(),
        answers=distinct([value, *answer.texts("Aliases" if published else "aliases")]),
        target=value,
        kind="trivia",
        hops=1,
    )


def _pages(row: Row) -> Iterator[tuple[str, list[str]]]:
    for key, body in PAGES.items():
        for page in row.rows(key) if row.has(key) else ():
            if page.string(body).strip():
                yield page.string("title"), [page.string(body)]


def _files(row: Row) -> Iterator[tuple[str, list[str]]]:
    if row.path is None:
        raise DataError(f"{row.where} refers to files with pages, so the dataset has to be loaded by its path")
    for key, folder in FILES.items():
        for page in row.rows(key) if row.has(key) else ():
            file = row.path.parent.parent / "evidence" / folder / page.text("Filename")
            text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
            if text.strip():
                yield page.string("Title"), [text]
