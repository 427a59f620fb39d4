"""Lays out the sentences of a document in paragraphs, within an exact number of tokens.

The sentences were counted one by one, which is nearly exact.  The whole text is counted once at the end, and sentences
are removed or short ones are added until it fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from memfold.core.errors import ConfigError
from memfold.tasks.almanac.world import Fact, Unit
from memfold.tasks.task import Encode

MIN_FILL = 0.9  # of the size
PADDING = (
    "Rain fell.",
    "It was cold.",
    "The road was long.",
    "A dog sat by the gate.",
    "Nobody was there.",
    "The evening was warm and still.",
)


@dataclass
class Page:
    """The text of a document and the facts that it states in reading order, each with its `start`."""

    text: str
    facts: list[Fact]


def lay_out(rng: Random, units: list[Unit], size: int, encode: Encode) -> Page:
    """A page of at most `size` tokens and, from 128 tokens on, of at least nine tenths of that.

    Raises:
        ConfigError: if not even one sentence fits.
    """
    breaks = [rng.randint(3, 6) for _ in range(len(units) // 3 + 8)]
    lowest = MIN_FILL * size
    tried: set[int] = set()
    while units:
        page = _join(units, breaks)
        count = len(encode(page.text))
        if count > size:
            tried.add(len(units))
            units = _shorter(units, max(1, int((count - size) / count * len(units))))
        elif count < lowest and len(units) + 1 not in tried:
            units.append(_padding(rng, size - count, encode))
        else:
            return page
    raise ConfigError(f"no sentence fits into a document of {size} tokens; use a larger size (48 or more)")


def _shorter(units: list[Unit], surplus: int) -> list[Unit]:
    """Drop the last `surplus` filler sentences or, if there is no filler left, the last units."""
    fillers = [index for index, unit in enumerate(units) if isinstance(unit, str)]
    if not fillers:
        return units[:-surplus]
    dropped = set(fillers[-surplus:])
    return [unit for index, unit in enumerate(units) if index not in dropped]


def _padding(rng: Random, room: int, encode: Encode) -> str:
    fitting = [text for text in PADDING if len(encode(" " + text)) < room]
    return rng.choice(fitting or PADDING[:1])


def _join(units: list[Unit], breaks: list[int]) -> Page:
    parts: list[str] = []
    facts: list[Fact] = []
    position, in_paragraph, paragraph = 0, 0, 0
    for unit in units:
        length = 1 if isinstance(unit, str) else len(unit)
        if in_paragraph and in_paragraph + length > breaks[paragraph % len(breaks)]:
            paragraph, in_paragraph = paragraph + 1, 0
        for sentence in (unit,) if isinstance(unit, str) else unit:
            if parts:
                parts.append(" " if in_paragraph else "\n")
                position += 1
            if isinstance(sentence, str):
                text = sentence
            else:
                text = sentence.text
                sentence.start = position
                facts.append(sentence)
            parts.append(text)
            position += len(text)
            in_paragraph += 1
    return Page("".join(parts), facts)
