"""Unfolding: the text around some citations, to be read again before the final answer.

Slots carry what a passage says, the passage itself carries every digit of it.  Left out: texts that a memory does not
hold.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from memfold.core.errors import DataError
from memfold.core.types import Citation, Memory
from memfold.systems.shared.citations import read_stretch

_SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*(\s+|$)|\n+")


def unfolded(memory: Memory, citations: Sequence[Citation], tokens: int) -> str:
    """The cited passages with whole sentences around them, in the order of the documents: about `tokens` in all.

    Raises:
        DataError: for a memory that holds no text.
    """
    if not memory.blocks or memory.blocks[0].read() is None:
        raise DataError(f"memory {memory.name!r} holds no text to unfold; fold it without --no-text")
    characters = sum(block.char_end - block.char_start for block in memory.blocks)
    room = tokens * characters / max(1, memory.token_count) / max(1, len(citations))
    stretches = sorted(_stretch(memory, citation, room) for citation in citations)
    joined: list[tuple[int, int, int]] = []
    for source, start, end in stretches:
        if joined and joined[-1][0] == source and start <= joined[-1][2] + 1:  # a space apart
            joined[-1] = (source, joined[-1][1], max(end, joined[-1][2]))
        else:
            joined.append((source, start, end))
    return "\n".join(read_stretch(memory, *stretch).strip() for stretch in joined)


def _stretch(memory: Memory, citation: Citation, room: float) -> tuple[int, int, int]:
    """(source, start, end): the citation, and as many whole sentences on both sides as there is room for."""
    source = memory.sources.index(citation.source)
    spare = max(0, round((room - (citation.end - citation.start)) / 2))
    start = max(0, citation.start - spare)
    before = read_stretch(memory, source, start, citation.start)
    after = read_stretch(memory, source, citation.end, citation.end + spare)
    if start > 0:
        first = _SENTENCE_END.search(before)
        start = start + first.end() if first else citation.start
    ends = [match.end() for match in _SENTENCE_END.finditer(after)]
    return source, start, citation.end + (ends[-1] if ends else 0)
