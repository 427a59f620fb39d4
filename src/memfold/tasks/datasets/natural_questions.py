"""Natural Questions: questions to a search engine, each with a whole Wikipedia page and marked answers.

Reads three layouts: the published one (`document_tokens`), its simplified form (`document_text`), and that of the
`datasets` library (`document.tokens`).  HTML tags become line ends, so that the document is plain text, and answers
are read back from it.  A question with neither a short answer nor yes or no is skipped: a long answer alone is a
passage, not an answer.  The evidence is the long answer of the annotation that is used, else its short answers.
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
CLOSING = {",", ".", ";", ":", "?", "!", "%", ")", "]", "''", "'s", "n't"}  # stand close to the word before
OPENING = {"(", "[", "``", "$"}  # and these to the word behind
YES_NO: dict[str | int, str] = {"YES": "yes", "NO": "no", 1: "yes", 0: "no"}  # anything else is neither


@dataclass(frozen=True)
class Annotation:
    """What one annotator marked, as places in the text."""

    long: tuple[Span, ...]
    short: tuple[Span, ...]
    yes_no: str | None


def natural_questions(row: Row) -> Iterator[Sample | None]:
    """One question; several short answers of one annotator make it a listing."""
    text, places = _join(_tokens(row))
    if not text:
        raise row.wrong("document", "a page with text")
    marked = [_annotation(one, places) for one in row.rows("annotations")]
    used = next((one for one in marked if one.short or one.yes_no), None)
    if used is None:
        yield None
        return
    answers = excerpts(text, used.short) or (used.yes_no or "",)
    if len(used.short) == 1:  # what other annotators gave as the one answer is accepted too
        answers += excerpts(text, (one.short[0] for one in marked if len(one.short) == 1))
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
    """The page's tokens, and for each whether it is a tag."""
    if row.has("document_text"):
        return [(token, TAG.fullmatch(token) is not None) for token in row.text("document_text").split(" ")]
    if row.has("document"):
        return [(one.string("token"), one.flag("is_html")) for one in row.row("document").rows("tokens")]
    return [(one.string("token"), one.flag("html_token")) for one in row.rows("document_tokens")]


def _join(tokens: Sequence[tuple[str, bool]]) -> tuple[str, list[Span]]:
    """Text of the tokens, and the place of each; tags have empty ones."""
    parts: list[str] = []
    places: list[Span] = []
    at, gap, before = 0, "", ""
    for token, is_tag in tokens:
        if is_tag or not token:
            gap = "\n" if at else ""
            places.append(Span(at, at))
            continue
        if gap == " " and (token in CLOSING or before in OPENING):
            gap = ""
        places.append(Span(at + len(gap), at + len(gap) + len(token)))
        parts += (gap, token)
        at, gap, before = places[-1].end, " ", token
    return "".join(parts), places


def _annotation(row: Row, places: Sequence[Span]) -> Annotation:
    short = [span for one in row.rows("short_answers") for span in _place(one, places)]
    yes_no = row.values.get("yes_no_answer")
    known = YES_NO.get(yes_no) if isinstance(yes_no, str | int) else None
    return Annotation(tuple(_place(row.row("long_answer"), places)), in_order(short), known)


def _place(row: Row, places: Sequence[Span]) -> list[Span]:
    """Where the tokens from `start_token` to before `end_token` stand; nowhere when both are -1."""
    start, end = row.number("start_token"), row.number("end_token")
    if end > len(places):
        raise row.wrong("end_token", f"at most {len(places)}, the number of tokens")
    standing = in_order(places[start:end]) if start >= 0 else ()
    return [Span(standing[0].start, standing[-1].end)] if standing else []
