"""Haystacks: long texts of filler, almanac pages or any other text, in which sentences are planted at given depths.

A sentence includes the whitespace before it, so that it has the same tokens on its own as inside the text.  Texts that
are made of needles, or of words, have no sentences to plant anything between; `as_many` says how long they may be.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle, islice, pairwise
from random import Random

from memfold.core.errors import ConfigError
from memfold.core.types import Span
from memfold.tasks.almanac.task import write
from memfold.tasks.filler import sentence
from memfold.tasks.task import Encode, TaskOptions

# up to a full stop with the quotes and brackets after it, else up to a blank line, else to the end
_SENTENCE = re.compile(r"\s*\S.*?(?:[.!?][\"'\u201d\u2019)\]]*(?=\s)|(?=\n\s*\n)|\Z)", re.DOTALL)
MARGIN = 2  # with it a planted sentence begins anywhere in a group of tokens, as it would in a text folded as a whole
PAGE_TOKENS = 1024
SHORTEN = 100  # a text that is too long loses one in so many sentences at a time
REPEATED = 5  # sentences of a haystack that says the same all the time
CLOSE, AIM = 0.985, 0.995  # of a size: what is close enough, and what the next text aims at
FIRST_GUESS = 64  # tokens of an item: many, so that the first text is short


def filler_sentences(rng: Random) -> Iterator[str]:
    """Endless filler in paragraphs of three to six sentences."""
    while True:
        for index in range(rng.randint(3, 6)):
            yield f"{' ' if index else chr(10)}{sentence(rng)}"


def repeated_text(rng: Random) -> str:
    """A few sentences of filler, for a haystack that repeats them, as RULER's `noise` does."""
    return "".join(islice(filler_sentences(rng), REPEATED)).strip()


def almanac_sentences(rng: Random, options: TaskOptions, encode: Encode) -> Iterator[str]:
    """The sentences of endless almanac pages, each with entities of its own."""
    while True:
        yield from sentences_of(f"\n{write(rng, PAGE_TOKENS, options, encode).text}")


def sentences_of(text: str) -> list[str]:
    """A text cut into sentences, each with the whitespace before it."""
    return [match[0] for match in _SENTENCE.finditer(text)]


def text_sentences(text: str) -> Iterator[str]:
    """The sentences of a text, repeated endlessly."""
    sentences = sentences_of(text)
    sentences[:1] = [f"\n{first}" for first in sentences[:1]]  # a line break where the text begins again
    return cycle(sentences)


def gather(sentences: Iterable[str], size: int, encode: Encode) -> list[str]:
    """As many of the first sentences as fit into `size` tokens together.

    Raises:
        ConfigError: if not even one fits.
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


def as_many(size: int, write: Callable[[int], str], encode: Encode) -> int:
    """How many items a text of at most `size` tokens has, which `write` makes of any number of them.

    The text of so many has at least 98 % of the tokens, or that of one more is too long.

    Raises:
        ConfigError: if a text of one item is too long.
    """
    fits, too_many = 0, sys.maxsize
    count = max(1, size // FIRST_GUESS)
    while too_many - fits > 1:
        tokens = max(1, len(encode(write(count))))
        if tokens > size:
            too_many = count
        else:
            fits = count
        if CLOSE * size <= tokens <= size:
            break
        count = min(max(int(count * AIM * size / tokens), fits + 1), too_many - 1)
    if not fits:
        raise ConfigError(f"nothing has room in {size} tokens of text; use larger --lengths")
    return fits


@dataclass(frozen=True)
class Planted:
    """A text with the spans of the planted sentences.

    `starts` are the positions of all other sentences, followed by the length of the text.
    """

    text: str
    spans: tuple[Span, ...]
    starts: tuple[int, ...]


def borders_of(sentences: Sequence[str], depths: Sequence[float]) -> list[int]:
    """The sentence borders at these depths, measured in characters: depth 0 is before the first, 1 after the last."""
    ends = [0, *accumulate(map(len, sentences))]
    return [bisect_left(ends, depth * ends[-1]) for depth in depths]


def plant(sentences: Sequence[str], planted: Sequence[tuple[float, str]]) -> Planted:
    """Put each planted sentence at its depth.

    >>> plant([" One.", " Two."], [(0.5, "Here.")]).text
    'One. Here. Two.'
    """
    borders = borders_of(sentences, [depth for depth, _ in planted])
    spans = [Span(0, 0)] * len(planted)
    parts: list[str] = []
    starts: list[int] = []
    position = 0
    for border in range(len(sentences) + 1):
        for index in [index for index, planted_at in enumerate(borders) if planted_at == border]:
            needle = planted[index][1]
            parts.append(f" {needle}" if parts else needle)
            position += len(parts[-1])
            spans[index] = Span(position - len(needle), position)
        starts.append(position)
        for text in sentences[border : border + 1]:
            parts.append(text if parts else text.lstrip())
            position += len(parts[-1])
    return Planted("".join(parts), tuple(spans), (0, *starts[1:]))


def pieces(planted: Planted, cuts: Iterable[int], margin: int = MARGIN) -> list[str]:
    """The text in pieces: one around each of the borders `cuts`, with `margin` sentences on either side, and the rest.

    Pieces without a planted sentence are the same in all texts that have the same sentences and cuts.
    """
    last = len(planted.starts) - 1
    around: list[tuple[int, int]] = []
    for cut in sorted(set(cuts)):
        low, high = max(0, cut - margin), min(last, cut + margin)
        if around and low < around[-1][1]:
            around[-1] = (around[-1][0], high)
        else:
            around.append((low, high))
    borders = {0, last}.union(*around)
    positions = [planted.starts[border] for border in sorted(borders)]
    return [planted.text[start:end] for start, end in pairwise(positions) if end > start]
