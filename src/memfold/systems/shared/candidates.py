"""BM25 search for the blocks that are worth reading: for a question, or in view of the note so far.

A question of several hops names what its first block is about, but not what its last one is about; the note does, once
the first hop is in it.  What is left out: words that mean the same, which BM25 does not know.
"""

from __future__ import annotations

from memfold.core.errors import DataError
from memfold.core.types import Block, Memory
from memfold.systems.shared.notes import search_query
from memfold.systems.shared.passages import PassageIndex


def candidates(memory: Memory, question: str, note: str, count: int) -> list[int]:
    """Return the numbers of at most `count` blocks that share the rarest words with question and note, in order.

    Blocks that share no word are left out.

    Raises:
        DataError: if the memory holds no text.
    """
    query = search_query(question, note)
    return sorted(number for number, score in _search(memory, query, count) if score > 0)


def best_blocks(memory: Memory, question: str, count: int) -> list[Block]:
    """Return the `count` blocks that share the rarest words with a question, or all if there are fewer, in order.

    Where fewer share a word, the first ones that share none fill up the number: a question in other words than the text
    is about the beginning of the text, for want of a better place.

    Raises:
        DataError: if the memory holds no text.
    """
    return [memory.blocks[number] for number in sorted(number for number, _ in _search(memory, question, count))]


def _search(memory: Memory, query: str, count: int) -> list[tuple[int, float]]:
    """Return (number, score) of the `count` best blocks, best first; the index is kept with the memory."""
    if memory.blocks and not memory.holds_text:
        raise DataError(
            "this memory holds no text that could be searched for blocks to read; fold the documents without "
            "--no-text, or read all blocks (--set candidates=0)"
        )
    index = memory.cached("passages", lambda: PassageIndex([block.read() or "" for block in memory.blocks]))
    return index.best(query, count)
