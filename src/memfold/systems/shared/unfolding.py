"""Unfolding: the text around citations, which is read again before the final answer.

Slots carry the meaning of a passage; the text itself has every digit.  The memory must hold its text.
"""

from __future__ import annotations

from collections.abc import Sequence

from memfold.core.borders import NEIGHBOURHOOD, border, sentences
from memfold.core.errors import DataError
from memfold.core.types import Citation, Memory, Span
from memfold.systems.shared.citations import read_span


def check_unfoldable(memory: Memory) -> None:
    """Refuse a memory without text.

    Raises:
        DataError: with what to do.
    """
    if not memory.holds_text:
        raise DataError("this memory holds no text to unfold; fold the documents without --no-text")


def unfolded(memory: Memory, citations: Sequence[Citation], tokens: int) -> str:
    """Return the cited passages, extended by whole sentences, in document order; about `tokens` tokens at most.

    The number of tokens is estimated from the mean length of a token of the memory.  Passages that do not fit are left
    out, those cited last first; if not even the first one fits, it is cut.

    Raises:
        DataError: if the memory holds no text.
    """
    check_unfoldable(memory)
    characters = sum(block.char_end - block.char_start for block in memory.blocks)
    room = max(1, round(tokens * characters / max(1, memory.token_count)))
    passages = _fitting(memory, citations, room)
    spare = (room - sum(end - start for _, start, end in passages)) // max(1, 2 * len(passages))
    widened = sorted(_widened(memory, *passage, spare) for passage in passages)
    joined: list[tuple[int, int, int]] = []
    for source, start, end in widened:
        if joined and joined[-1][0] == source and start <= joined[-1][2] + 1:  # adjacent, or a space apart
            joined[-1] = (source, joined[-1][1], max(end, joined[-1][2]))
        else:
            joined.append((source, start, end))
    return "\n".join(read_span(memory, source, Span(start, end)).strip() for source, start, end in joined)


def _fitting(memory: Memory, citations: Sequence[Citation], room: int) -> list[tuple[int, int, int]]:
    """Return (source, start, end) of the citations that fit into `room` characters together; one at least."""
    passages: list[tuple[int, int, int]] = []
    for citation in citations:
        start, end = citation.start, citation.end
        if end - start > room and not passages:
            end = start + border(read_span(memory, memory.sources.index(citation.source), Span(start, end)), 0, room)
        if end - start <= room:
            passages.append((memory.sources.index(citation.source), start, end))
            room -= end - start
    return passages


def _widened(memory: Memory, source: int, start: int, end: int, spare: int) -> tuple[int, int, int]:
    """Return a passage extended by whole sentences: by at most `spare` characters on each side."""
    first = max(0, start - spare - NEIGHBOURHOOD)
    text = read_span(memory, source, Span(first, end + spare + NEIGHBOURHOOD))
    whole = [(first + begin, first + stop) for begin, stop in sentences(text)][1 if first else 0 :]
    begins = [begin for begin, _ in whole if start - spare <= begin <= start]
    stops = [stop for _, stop in whole if end <= stop <= end + spare]
    return source, min(begins, default=start), max(stops, default=end)
