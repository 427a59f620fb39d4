"""Long text to hide something in, sentence by sentence up to a size in tokens: filler, the almanac, or any text.

A sentence carries the space before it, so that its tokens are those that it has inside the text.  Left out: text that
resembles what is hidden, as RULER has it; several needles in one text do.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle, pairwise
from random import Random

from memfold.core.errors import ConfigError
from memfold.core.types import Span
from memfold.tasks.almanac.task import write
from memfold.tasks.filler import sentence
from memfold.tasks.task import Encode, TaskOptions

# up to a full stop with the quotes and brackets after it, else up to a blank line, else to the end
_SENTENCE = re.compile(r"\s*\S.*?(?:[.!?][\"'\u201d\u2019)\]]*(?=\s)|(?=\n\s*\n)|\Z)", re.DOTALL)
REACH = 2  # so that what is planted begins anywhere within a group, as it would in a text folded whole
PAGE_TOKENS = 1024
SHORTEN = 100  # a text that came out too long loses this part of its sentences at a time


def filler_sentences(rng: Random) -> Iterator[str]:
    """Filler without end, in paragraphs of three to six sentences."""
    while True:
        for place in range(rng.randint(3, 6)):
            yield f"{' ' if place else chr(10)}{sentence(rng)}"


def almanac_sentences(rng: Random, options: TaskOptions, encode: Encode) -> Iterator[str]:
    """The sentences of almanac pages without end, each page about a world of its own."""
    while True:
        yield from sentences_of(f"\n{write(rng, PAGE_TOKENS, options, encode).text}")


def sentences_of(text: str) -> list[str]:
    """A text cut into sentences, each with the space before it."""
    return [match[0] for match in _SENTENCE.finditer(text)]


def text_sentences(text: str) -> Iterator[str]:
    """The sentences of a text, from its beginning again at its end."""
    found = sentences_of(text)
    found[:1] = [f"\n{first}" for first in found[:1]]  # where the text begins again
    return cycle(found)


def gather(sentences: Iterable[str], size: int, encode: Encode) -> list[str]:
    """The first sentences, as many as have room in `size` tokens together.

    Raises:
        ConfigError: when not even one has.
    """
    chosen: list[str] = []
    left = size
    for text in sentences:
        left -= len(encode(text))
        if left < 0:
            break
        chosen.append(text)
    while chosen and len(encode("".join(chosen))) > size:
        del chosen[-max(1, len(chosen) // SHORTEN) :]
    if not chosen:
        raise ConfigError(f"no sentence has room in {size} tokens of text around the needles; use larger --lengths")
    return chosen


@dataclass(frozen=True)
class Planted:
    """A text, the places of what was planted in it, and where each sentence starts, last of all the text's end."""

    text: str
    spans: tuple[Span, ...]
    starts: tuple[int, ...]


def borders_of(sentences: Sequence[str], depths: Sequence[float]) -> list[int]:
    """Before which sentences these depths lie, by characters: 0 before the first, 1 after the last."""
    ends = [0, *accumulate(map(len, sentences))]
    return [bisect_left(ends, depth * ends[-1]) for depth in depths]


def plant(sentences: Sequence[str], planted: Sequence[tuple[float, str]]) -> Planted:
    """A text with each planted sentence at its depth.

    >>> plant([" One.", " Two."], [(0.5, "Here.")]).text
    'One. Here. Two.'
    """
    borders = borders_of(sentences, [depth for depth, _ in planted])
    spans = [Span(0, 0)] * len(planted)
    parts: list[str] = []
    starts: list[int] = []
    position = 0
    for border in range(len(sentences) + 1):
        for number in [number for number, place in enumerate(borders) if place == border]:
            part = f" {planted[number][1]}" if parts else planted[number][1]
            spans[number] = Span(position + len(part) - len(planted[number][1]), position + len(part))
            parts.append(part)
            position += len(part)
        starts.append(position)
        for text in sentences[border : border + 1]:
            parts.append(text if parts else text.lstrip())
            position += len(parts[-1])
    return Planted("".join(parts), tuple(spans), (0, *starts[1:]))


def pieces(planted: Planted, cuts: Iterable[int], reach: int = REACH) -> list[str]:
    """The text in pieces: one around each of the borders `cuts`, `reach` sentences to either side, and what is left.

    With the same sentences and the same cuts, pieces in which nothing was planted are the same in every text.
    """
    last = len(planted.starts) - 1
    ends = {0, last}
    around: list[tuple[int, int]] = []
    for cut in sorted(set(cuts)):
        low, high = max(0, cut - reach), min(last, cut + reach)
        if around and low < around[-1][1]:
            around[-1] = (around[-1][0], high)
        else:
            around.append((low, high))
    for low, high in around:
        ends |= {low, high}
    places = [planted.starts[end] for end in sorted(ends)]
    return [planted.text[start:end] for start, end in pairwise(places) if end > start]
