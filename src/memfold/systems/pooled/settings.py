"""The settings of pooled memory, and those of the paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from memfold.core.config import require

Cite = Literal["recall", "attention"]
Wrapper = Literal["slot", "span", "none"]
PositionRule = Literal["consecutive", "strided"]

CITES: tuple[Cite, ...] = ("recall", "attention")
WRAPPERS: tuple[Wrapper, ...] = ("slot", "span", "none")
POSITION_RULES: tuple[PositionRule, ...] = ("consecutive", "strided")


@dataclass(frozen=True)
class PooledSettings:
    """How a document becomes slots and how the decoder meets them.

    `ratio` tokens become one slot.  `wrapper`: two special tokens around each slot (the paper), around the whole
    memory, or none.  `positions`: consecutive (the paper), or strided, each slot at the position of its first token.
    `chunk` is the streaming unit in tokens.  `gap` is how many positions lie empty between the memory and what follows:
    training draws it at random, so that slots are also read from further away than any training document is long.
    """

    ratio: int = 16
    wrapper: Wrapper = "span"
    positions: PositionRule = "strided"
    chunk: int = 4096
    gap: int = 0

    def __post_init__(self) -> None:
        require(1 <= self.ratio <= 1024, "ratio", self.ratio, "1 to 1024")
        require(self.wrapper in WRAPPERS, "wrapper", self.wrapper, ", ".join(WRAPPERS))
        require(self.gap >= 0, "gap", self.gap, "0 or more positions")
        require(self.positions in POSITION_RULES, "positions", self.positions, ", ".join(POSITION_RULES))
        require(
            self.chunk >= self.ratio and self.chunk % self.ratio == 0, "chunk", self.chunk, "a multiple of the ratio"
        )

    def effective_ratio(self, tokens: int) -> float:
        """Document tokens divided by the decoder's memory positions for one document of `tokens` tokens."""
        slots = -(-tokens // self.ratio)
        positions = {"slot": 3 * slots, "span": slots + 2, "none": slots}[self.wrapper]
        return tokens / positions


# Section 3.1 and appendix I: 16 tokens to a slot, every slot wrapped, consecutive positions, 4,096-token documents.
PAPER = PooledSettings(ratio=16, wrapper="slot", positions="consecutive", chunk=4096)
