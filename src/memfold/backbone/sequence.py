"""Builds the sequence of one call, place by place, with the positions that the rotary embedding sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memfold.core.system import SLOT, Inputs


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
