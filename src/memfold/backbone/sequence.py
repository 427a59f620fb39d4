"""Builds the sequence of one call: its tokens, and the position ids for the rotary embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from memfold.core.system import SLOT, Prefix, Rendered

if TYPE_CHECKING:
    from torch import Tensor


class SequenceBuilder:
    """Collects the tokens, position ids and slots of one call; `next` is the position id of the next token."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.lengths: list[int] = []
        self.slots: list[Tensor] = []
        self.memory_positions = 0
        self.next = 0

    def text(self, tokens: Sequence[int]) -> None:
        """Append tokens at the next positions."""
        self.tokens += tokens
        self.positions += range(self.next, self.next + len(tokens))
        self.next += len(tokens)

    def place(self, token: int, position: int) -> None:
        """Append one token of the memory, or `SLOT`, at a given position; text continues after it."""
        self.tokens.append(token)
        self.positions.append(position)
        self.memory_positions += 1
        self.next = position + 1

    def end_part(self) -> None:
        """End a part of the call, and record its number of token positions."""
        self.lengths.append(len(self.tokens) - sum(self.lengths))

    def rendered(self, prefix: Prefix | None = None, adapter: str | None = None) -> Rendered:
        """Return the finished sequence."""
        assert self.tokens.count(SLOT) == sum(map(len, self.slots)), "each SLOT token needs one slot"
        return Rendered(
            tokens=self.tokens,
            positions=self.positions,
            lengths=tuple(self.lengths),
            slots=_joined(self.slots),
            memory_positions=self.memory_positions + (0 if prefix is None else prefix.length),
            prefix=prefix,
            adapter=adapter,
        )


def _joined(slots: Sequence[Tensor]) -> Tensor | None:
    """Return the slots of all parts in one tensor; a call of text, which needs no torch, has none."""
    if not slots:
        return None
    import torch

    return torch.cat(list(slots))
