"""Helpers for loaders: lay out paragraphs as one text with the spans of their sentences, and clean up answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from memfold.core.types import Sample, Span


def lay_out(paragraphs: Iterable[tuple[str, Sequence[str]]]) -> tuple[str, list[list[Span]]]:
    """Join paragraphs (title, sentences) by blank lines; the text, and the span of each sentence by paragraph.

    A title is on its own line.  Sentences are stripped and joined by a space.  A blank sentence has an empty span.

    >>> lay_out([("Velm", ["A town.", " It is old."]), ("", ["Ada."])])[0]
    'Velm\\nA town. It is old.\\n\\nAda.'
    """
    text, all_spans = "", []
    for title, sentences in paragraphs:
        text += "\n\n" if text else ""
        text += f"{title.strip()}\n" if title.strip() else ""
        start = len(text)
        spans = []
        for sentence in map(str.strip, sentences):
            text += " " if sentence and len(text) > start else ""
            spans.append(Span(len(text), len(text) + len(sentence)))
            text += sentence
        all_spans.append(spans)
    return text, all_spans


def in_order(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The spans in the order of the text, without duplicates and empty ones."""
    return tuple(sorted({span for span in spans if span.end > span.start}, key=lambda span: (span.start, span.end)))


def excerpts(text: str, spans: Iterable[Span]) -> tuple[str, ...]:
    """The text of each span."""
    return tuple(text[span.start : span.end] for span in spans)


def distinct(strings: Iterable[str]) -> tuple[str, ...]:
    """The strings stripped, in order, without duplicates and blank ones."""
    return tuple(dict.fromkeys(string.strip() for string in strings if string.strip()))


def with_target(sample: Sample) -> Sample:
    """The sample with its expected answer as the target."""
    return replace(sample, target=sample.expected)
