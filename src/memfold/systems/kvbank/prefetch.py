"""Blocks are read from the disk while the gate scores the ones before them.

A long bank does not stay in the page cache, and every block is read whole to compare its checksum.  One thread does so
for the blocks that the gate sees next; a block that is damaged is reported when the gate gets to it.  The copy to the
device is not made ahead: it takes a small part of a forward pass over the block.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from threading import Thread

from memfold.core.block import Block
from memfold.core.errors import DataError
from memfold.core.types import Memory


def prefetch(memory: Memory, indices: Iterable[int]) -> Thread | None:
    """Begin to read some blocks of a memory, each once; return the thread, or None if there is nothing to read.

    Blocks whose slots are in RAM need no reading.
    """
    begun: set[int] = memory.cached("prefetched", set)
    new = [index for index in indices if index not in begun and memory.blocks[index].stores_slots]
    if not new:
        return None
    begun.update(new)
    thread = Thread(target=_check, args=([memory.blocks[index] for index in new],), daemon=True)
    thread.start()
    return thread


def _check(blocks: Sequence[Block]) -> None:
    for block in blocks:
        try:
            block.check()
        except DataError:
            continue  # the block keeps its problem, and `check` raises it again
