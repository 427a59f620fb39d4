"""Builds the sequence of one call, position by position, with the positions that the rotary embedding sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memfold.core.system import SLOT, Prefix, Rendered


class SequenceBuilder:
    """`next` is the position that the next token would have."""

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
        """Note how many token positions the part that ends here has taken."""
        self.lengths.append(len(self.tokens) - sum(self.lengths))

    def rendered(self, prefix: Prefix | None = None, adapter: str | None = None) -> Rendered:
        """The finished sequence."""
        assert self.tokens.count(SLOT) == sum(map(len, self.slots)), "as many slots as positions for them"
        return Rendered(
            tokens=self.tokens,
            positions=self.positions,
            lengths=tuple(self.lengths),
            slots=torch.cat(self.slots) if self.slots else None,
            memory_positions=self.memory_positions + (0 if prefix is None else prefix.length),
            prefix=prefix,
            adapter=adapter,
        )
