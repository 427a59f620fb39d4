"""Builds the sequence of one call, place by place, with the positions that the rotary embedding sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memfold.backbone.model import Backbone
from memfold.core.errors import DataError
from memfold.core.system import SLOT, Inputs
from memfold.core.types import BlockRef, Call, Memory


class SequenceBuilder:
    """`next` is the position of the place that would follow."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.lengths: list[int] = []
        self.slots: list[Tensor] = []
        self.memory_positions = 0
        self.next = 0

    def text(self, tokens: Sequence[int]) -> None:
        """Tokens at the following positions."""
        self.tokens += tokens
        self.positions += range(self.next, self.next + len(tokens))
        self.next += len(tokens)

    def place(self, token: int, position: int) -> None:
        """One token (or `SLOT`) of the memory at a position of its own."""
        self.tokens.append(token)
        self.positions.append(position)
        self.memory_positions += 1
        self.next = position + 1

    def end_part(self) -> None:
        """Note how many places the part that ends here has taken."""
        self.lengths.append(len(self.tokens) - sum(self.lengths))

    def inputs(self) -> Inputs:
        """The finished sequence."""
        assert self.tokens.count(SLOT) == sum(map(len, self.slots)), "as many slots as places for them"
        return Inputs(self.tokens, self.positions, tuple(self.lengths), torch.cat(self.slots) if self.slots else None,
                      self.memory_positions)  # fmt: skip


def text_inputs(memory: Memory, call: Call, backbone: Backbone) -> Inputs:
    """A call of a system whose blocks are text: tokens only.

    Raises:
        DataError: when the call is longer than the backbone's window, or the memory was stored without its text.
    """
    builder = SequenceBuilder()
    for part in call.parts:
        if isinstance(part, BlockRef):
            text = memory.blocks[part.index].read()
            if text is None:
                raise DataError(f"memory {memory.name!r} holds no text to read; fold it without --no-text")
            tokens = backbone.encode(text)
            builder.memory_positions += len(tokens)
            builder.text(tokens)
        else:
            builder.text(backbone.encode(part.text) if part.tokens is None else part.tokens)
        if not builder.tokens:  # a sequence never begins with nothing
            builder.text([backbone.end_token])
        builder.end_part()
    if len(builder.tokens) + call.limits.max_tokens > backbone.window:
        raise DataError(
            f"the text takes {len(builder.tokens)} tokens and the reply up to {call.limits.max_tokens}, the model's "
            f"window is {backbone.window}; fold it (system pooled) or shorten it"
        )
    return builder.inputs()
