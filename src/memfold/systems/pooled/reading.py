"""Reading slots: the passage of a document that a slot stands for, and how many positions a model has for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfold.core.errors import DataError
from memfold.core.model import Model
from memfold.core.types import Block, BlockRef, Call, Memory, Passage, Span
from memfold.core.window import LARGER

if TYPE_CHECKING:
    from memfold.backbone.model import Backbone


def check_length(end: int, blocks: int, backbone: Backbone) -> None:
    """Check that a call over a number of blocks, which ends at position `end`, has no more positions than the model.

    Raises:
        DataError: with what to do.
    """
    limit = backbone.position_limit
    if blocks and limit is not None and end > limit.count:
        raise DataError(
            f"the slots of {blocks} blocks and the prompt take {end} positions, model {backbone.name!r} has "
            f"{limit.count}: {limit.reason}; read fewer blocks (--set candidates=N) or smaller ones (fold with --set "
            f"chunk=N), or {LARGER}"
        )


def slot_passage(memory: Memory, call: Call, slot: int, ratio: int, model: Model) -> Passage:
    """Return the passage behind slot number `slot` of a call.

    The passage is exact if the memory holds its text; otherwise its characters are interpolated within the block.

    Raises:
        IndexError: if the call has no such slot.
    """
    index = slot  # index within the block
    for part in call.parts:
        if isinstance(part, BlockRef):
            block = memory.blocks[part.index]
            if index < block.slot_count:
                return Passage(block.source, _span(memory, block, index, ratio, model))
            index -= block.slot_count
    raise IndexError(f"slot {slot} is not possible; the call has {slot - index} slots, counted from 0")


def _span(memory: Memory, block: Block, index: int, ratio: int, model: Model) -> Span:
    if block.slot_tokens is None:
        first, last = index * ratio, min((index + 1) * ratio, block.token_count)
    else:
        first = sum(block.slot_tokens[:index])
        last = first + block.slot_tokens[index]
    text = block.read()
    if text is None:
        size = block.char_end - block.char_start
        start, end = (block.char_start + size * token // block.token_count for token in (first, last))
        return Span(start, end)
    offsets = memory.cached(("offsets", block.index), lambda: model.tokenize(text)[1])
    last = min(last, len(offsets))
    return Span(block.char_start + offsets[min(first, len(offsets) - 1)][0], block.char_start + offsets[last - 1][1])
