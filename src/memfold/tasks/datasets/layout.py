"""What loaders make a sample of: paragraphs laid out as one text with the places of their sentences, and answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from memfold.core.types import Sample, Span


def lay_out(paragraphs: Iterable[tuple[str, Sequence[str]]]) -> tuple[str, list[list[Span]]]:
    """One text of paragraphs (title, sentences), a blank line between them, and the places of their sentences.

    A title stands on a line of its own.  Sentences lose the space around them and are joined by one; a blank one keeps
    its number, with an empty place.

    >>> lay_out([("Velm", ["A town.", " It is old."]), ("", ["Ada."])])[0]
    'Velm\\nA town. It is old.\\n\\nAda.'
    """
    text, places = "", []
    for title, sentences in paragraphs:
        text += "\n\n" if text else ""
        text += f"{title.strip()}\n" if title.strip() else ""
        begun = len(text)
        spans = []
        for sentence in map(str.strip, sentences):
            text += " " if sentence and len(text) > begun else ""
            spans.append(Span(len(text), len(text) + len(sentence)))
            text += sentence
        places.append(spans)
    return text, places


def in_order(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Without empty ones and repeats, as they follow in the text."""
    return tuple(sorted({span for span in spans if span.end > span.start}, key=lambda span: (span.start, span.end)))


def excerpts(text: str, spans: Iterable[Span]) -> tuple[str, ...]:
    """What stands in these places."""
    return tuple(text[span.start : span.end] for span in spans)


def distinct(strings: Iterable[str]) -> tuple[str, ...]:
    """Without the space around them, blank ones and repeats, in their order."""
    return tuple(dict.fromkeys(string.strip() for string in strings if string.strip()))


def with_target(sample: Sample) -> Sample:
    """The sample, to be answered in the words that it expects: a listing as one sentence, else the first answer."""
    return replace(sample, target=sample.expected)
