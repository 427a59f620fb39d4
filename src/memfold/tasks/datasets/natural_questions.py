"""Natural Questions: search engine queries, each with a whole Wikipedia page and annotated answers.

Reads three layouts: the published one (`document_tokens`), its simplified form (`document_text`), and that of the
`datasets` library (`document.tokens`).  HTML tags are replaced by line ends, so that the document is plain text;
answers are taken from this text.  Questions with neither a short answer nor yes or no are skipped, because a long
answer alone is a passage.  The evidence is the long answer of the annotation that is used or, if it has none, its short
answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from memfold.core.document import Document
from memfold.core.types import Sample, Span
from memfold.tasks.datasets.layout import distinct, excerpts, in_order, with_target
from memfold.tasks.datasets.rows import Row

TAG = re.compile(r"</?[A-Za-z][^<>]*>")
CLOSING = {",", ".", ";", ":", "?", "!", "%", ")", "]", "''", "'s", "n't"}  # no space before these
OPENING = {"(", "[", "``", "$"}  # no space after these
YES_NO: dict[str | int, str] = {"YES": "yes", "NO": "no", 1: "yes", 0: "no"}  # other values mean neither


@dataclass(frozen=True)
class Annotation:
    """The answers of one annotator, as spans of the text."""

    long: tuple[Span, ...]
    short: tuple[Span, ...]
    yes_no: str | None


def natural_questions(row: Row) -> Iterator[Sample | None]:
    """One question; several short answers of one annotator make it a listing."""
    text, spans = _join(_tokens(row))
    if not text:
        raise row.wrong("document", "a page with text")
    annotations = [_annotation(record, spans) for record in row.rows("annotations")]
    used = next((annotation for annotation in annotations if annotation.short or annotation.yes_no), None)
    if used is None:
        yield None
        return
    answers = excerpts(text, used.short) or (used.yes_no or "",)
    if len(used.short) == 1:  # single answers of other annotators are accepted too
        answers += excerpts(text, (annotation.short[0] for annotation in annotations if len(annotation.short) == 1))
    question = row.row("question").text("text") if row.has("question") else row.text("question_text")
    kinds = ("yes-no", "extractive", "listing")
    sample = Sample(
        task="natural-questions",
        document=Document(f"natural-questions-{row.name('example_id', 'id')}", text=text),
        question=question.strip(),
        answers=distinct(answers),
        evidence=in_order(used.long or used.short),
        kind=kinds[min(len(used.short), 2)],
        hops=1,
    )
    yield with_target(sample)


def _tokens(row: Row) -> list[tuple[str, bool]]:
    """The tokens of the page, each with whether it is an HTML tag."""
    if row.has("document_text"):
        return [(token, TAG.fullmatch(token) is not None) for token in row.text("document_text").split(" ")]
    if row.has("document"):
        return [(record.string("token"), record.flag("is_html")) for record in row.row("document").rows("tokens")]
    return [(record.string("token"), record.flag("html_token")) for record in row.rows("document_tokens")]


def _join(tokens: Sequence[tuple[str, bool]]) -> tuple[str, list[Span]]:
    """The text of the tokens without tags, and the span of each token; tags have empty spans."""
    parts: list[str] = []
    spans: list[Span] = []
    end, gap, previous = 0, "", ""
    for token, is_tag in tokens:
        if is_tag or not token:
            gap = "\n" if end else ""
            spans.append(Span(end, end))
            continue
        if gap == " " and (token in CLOSING or previous in OPENING):
            gap = ""
        spans.append(Span(end + len(gap), end + len(gap) + len(token)))
        parts += (gap, token)
        end, gap, previous = spans[-1].end, " ", token
    return "".join(parts), spans


def _annotation(row: Row, spans: Sequence[Span]) -> Annotation:
    short = [span for record in row.rows("short_answers") for span in _span(record, spans)]
    value = row.values.get("yes_no_answer")
    yes_no = YES_NO.get(value) if isinstance(value, str | int) else None
    return Annotation(tuple(_span(row.row("long_answer"), spans)), in_order(short), yes_no)


def _span(row: Row, spans: Sequence[Span]) -> list[Span]:
    """The span of the tokens from `start_token` to before `end_token`; none if both are -1."""
    start, end = row.number("start_token"), row.number("end_token")
    if end > len(spans):
        raise row.wrong("end_token", f"at most {len(spans)}, the number of tokens")
    words = in_order(spans[start:end]) if start >= 0 else ()
    return [Span(words[0].start, words[-1].end)] if words else []
