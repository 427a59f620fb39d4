"""Leaves out the running heads and page numbers of PDF pages, which would cut the sentences that go on across pages.

A line is one if it stands in the margin of a page and again at the same place of a page near it, with the same words
and with numbers that are the same or count the pages.  Running heads stand once in the text, where no sentence is cut;
page numbers, alone or with a word, are lost.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from memfold.readers.lines import Line

MARGIN = 0.15  # of the height of a page, above and below
REACH = 2  # pages; heads of left and right pages take turns
LONGEST = 150  # characters of a running head
PLACE = 3.0  # points by which its place may differ
_NUMBER = re.compile(r"\d+")
_LETTERS = re.compile(r"[^\W\d_]+")
_ROMAN = re.compile(r"[ivxlc]+", re.IGNORECASE)
_ENDS = re.compile(r"[.!?\u2026][\"')\]\u201d\u2019\u00bb]*$")


@dataclass(frozen=True)
class Page:
    """The lines of a page in the order of the file, and its height in points."""

    lines: list[Line]
    height: float


@dataclass(frozen=True)
class _Head:
    """A line in a margin: its words without numbers, the numbers, and whether it is in the upper margin."""

    line: Line
    words: str
    numbers: tuple[int, ...]
    upper: bool


Near = list[tuple[int, list[_Head]]]  # how many pages further on a page is, and its margins


def without_running_heads(pages: Iterable[Page]) -> Iterator[list[Line]]:
    """Yield the lines of each page; only a few pages are in memory at a time."""
    waiting: list[Line] = []  # heads that are new and have no place in the text yet
    told: set[str] = set()
    ended = True  # whether the text so far ends with a sentence
    for page, margins, near in _with_neighbours(pages):
        heads = _running(margins, near)
        for head in heads:
            if not _is_page_number(head, near) and head.words not in told:
                told.add(head.words)
                waiting.append(head.line)
        left_out = {id(head.line) for head in heads}
        lines = [line for line in page.lines if id(line) not in left_out]
        if waiting and ended:
            lines, waiting = [*waiting, *lines], []
        if lines:
            ended = bool(_ENDS.search(lines[-1].text))
        yield lines
    yield waiting


def _with_neighbours(pages: Iterable[Page]) -> Iterator[tuple[Page, list[_Head], Near]]:
    """Yield each page with its margins, and with those of the pages around it."""
    margins: deque[list[_Head]] = deque(maxlen=2 * REACH + 1)
    ahead: deque[Page] = deque()

    def first() -> tuple[Page, list[_Head], Near]:
        page, place = ahead.popleft(), len(margins) - 1 - len(ahead)
        return page, margins[place], [(index - place, heads) for index, heads in enumerate(margins) if index != place]

    for page in pages:
        ahead.append(page)
        margins.append(_margins(page))
        if len(ahead) > REACH:
            yield first()
    while ahead:
        yield first()


def _margins(page: Page) -> list[_Head]:
    """Return the lines in the margins of a page, from its edges inwards."""
    found = []
    for line in page.lines:
        upper, lower = line.base > (1 - MARGIN) * page.height, line.base < MARGIN * page.height
        if (upper or lower) and len(line.text) <= LONGEST:
            text = " ".join(line.text.casefold().split())
            words = "#" if _ROMAN.fullmatch(text) else _NUMBER.sub("#", text)
            found.append(_Head(line, words, tuple(int(number) for number in _NUMBER.findall(text)), upper))
    return sorted(found, key=lambda head: -head.line.base if head.upper else head.line.base)


def _running(margins: list[_Head], near: Near) -> list[_Head]:
    """Return the running heads of a page: in each margin, from the edge on, the lines that neighbours repeat."""
    heads = []
    for upper in (True, False):
        for head in (head for head in margins if head.upper == upper):
            if not any(_repeats(head, other, pages) for pages, others in near for other in others):
                break
            heads.append(head)
    return heads


def _is_page_number(head: _Head, near: Near) -> bool:
    """Whether a running head counts the pages and has one word at most, such as `Page 3`; or has no letters at all."""
    letters = _LETTERS.findall(head.words)
    counts = any(
        other.words == head.words
        and any(two - one == pages for one, two in zip(head.numbers, other.numbers, strict=False))
        for pages, others in near
        for other in others
    )
    return not letters or (counts and len(letters) == 1)


def _repeats(head: _Head, other: _Head, pages: int) -> bool:
    """Whether a line in the margin of another page, so many pages further on, is the same running head."""
    if (head.words, head.upper) != (other.words, other.upper) or abs(head.line.base - other.line.base) > PLACE:
        return False
    pairs = zip(head.numbers, other.numbers, strict=False)
    return all(second - first in (0, pages) for first, second in pairs)
