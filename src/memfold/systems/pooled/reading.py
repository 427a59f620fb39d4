"""What stands behind a slot: the stretch of a document whose tokens became it."""

from __future__ import annotations

from memfold.core.model import Model
from memfold.core.types import Block, BlockRef, Call, Memory, Passage, Span


def slot_passage(memory: Memory, call: Call, slot: int, ratio: int, model: Model) -> Passage:
    """The passage behind slot number `slot` of a call: exact where the memory holds its text, else in proportion."""
    number = slot  # within its block
    for part in call.parts:
        if isinstance(part, BlockRef):
            block = memory.blocks[part.index]
            if number < block.slot_count:
                return Passage(block.source, _span(memory, block, number, ratio, model))
            number -= block.slot_count
    raise IndexError(f"slot {slot} lies behind the last one of the call")


def _span(memory: Memory, block: Block, number: int, ratio: int, model: Model) -> Span:
    first, last = number * ratio, min((number + 1) * ratio, block.token_count)
    text = block.read()
    if text is None:
        size = block.char_end - block.char_start
        start, end = (block.char_start + size * index // block.token_count for index in (first, last))
        return Span(start, end)
    offsets = memory.cached(("offsets", block.index), lambda: model.tokenize(text)[1])
    last = min(last, len(offsets))
    return Span(block.char_start + offsets[min(first, len(offsets) - 1)][0], block.char_start + offsets[last - 1][1])
