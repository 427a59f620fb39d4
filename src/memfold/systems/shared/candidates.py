"""BM25 search for the blocks that are worth reading, in view of the note so far.

A question of several hops names what its first block is about, but not what its last one is about; the note does, once
the first hop is in it.  What is left out: words that mean the same, which BM25 does not know.
"""

from __future__ import annotations

from memfold.core.types import Memory
from memfold.systems.shared.notes import EMPTY
from memfold.systems.shared.passages import PassageIndex


def candidates(memory: Memory, question: str, note: str, count: int) -> list[int]:
    """Return the numbers of at most `count` blocks that share the rarest words with question and note, in order.

    Blocks that share no word are left out.  The index of the blocks is kept with the memory.
    """
    index = memory.cached("passages", lambda: PassageIndex([block.read() or "" for block in memory.blocks]))
    query = question if note == EMPTY else f"{question} {note}"
    return sorted(number for number, score in index.best(query, count) if score > 0)
