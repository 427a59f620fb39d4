"""Unfolding: the text around citations, which is read again before the final answer.

Slots carry the meaning of a passage; the text itself has every digit.  The memory must hold its text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from memfold.core.errors import DataError
from memfold.core.types import Citation, Memory, Span
from memfold.systems.shared.citations import read_span

_SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*(\s+|$)|\n+")


def unfolded(memory: Memory, citations: Sequence[Citation], tokens: int) -> str:
    """Return the cited passages, extended by whole sentences, in document order; about `tokens` tokens in total.

    Raises:
        DataError: if the memory holds no text.
    """
    if not memory.holds_text:
        raise DataError(f"memory {memory.name!r} holds no text to unfold; fold it without --no-text")
    characters = sum(block.char_end - block.char_start for block in memory.blocks)
    room = tokens * characters / max(1, memory.token_count) / max(1, len(citations))
    widened = sorted(_widened(memory, citation, room) for citation in citations)
    joined: list[tuple[int, int, int]] = []
    for source, start, end in widened:
        if joined and joined[-1][0] == source and start <= joined[-1][2] + 1:  # adjacent, or a space apart
            joined[-1] = (source, joined[-1][1], max(end, joined[-1][2]))
        else:
            joined.append((source, start, end))
    return "\n".join(read_span(memory, source, Span(start, end)).strip() for source, start, end in joined)


def _widened(memory: Memory, citation: Citation, room: float) -> tuple[int, int, int]:
    """Return (source, start, end) of a citation, extended on both sides by the whole sentences that fit into `room`."""
    source = memory.sources.index(citation.source)
    spare = max(0, round((room - (citation.end - citation.start)) / 2))
    start = max(0, citation.start - spare)
    before = read_span(memory, source, Span(start, citation.start))
    after = read_span(memory, source, Span(citation.end, citation.end + spare))
    if start > 0:
        first = _SENTENCE_END.search(before)
        start = start + first.end() if first else citation.start
    ends = [match.end() for match in _SENTENCE_END.finditer(after)]
    return source, start, citation.end + (ends[-1] if ends else 0)
