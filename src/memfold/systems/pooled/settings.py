"""The settings of pooled memory, and those of the paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from memfold.core.config import require

Cite = Literal["recall", "attention"]
Mask = Literal["causal", "bidirectional"]
Pooling = Literal["mean", "gqa"]
Projection = Literal["linear", "mlp"]
Wrapper = Literal["slot", "span", "none"]
PositionRule = Literal["consecutive", "strided", "randomised"]

CITES: tuple[Cite, ...] = ("recall", "attention")
MASKS: tuple[Mask, ...] = ("causal", "bidirectional")
POOLINGS: tuple[Pooling, ...] = ("mean", "gqa")
PROJECTIONS: tuple[Projection, ...] = ("linear", "mlp")
WRAPPERS: tuple[Wrapper, ...] = ("slot", "span", "none")
POSITION_RULES: tuple[PositionRule, ...] = ("consecutive", "strided", "randomised")
WIDEST_WINDOW = 1024


@dataclass(frozen=True)
class PooledSettings:
    """How a document becomes slots and how the decoder meets them.

    `ratio` tokens become one slot.  The encoder sees `window` tokens at once, a multiple of the ratio, or (0, the
    paper, and any window smaller than the ratio) one group; inside a window `mask` lets a token see those before it, or
    all.  Window and mask are as the ablations favour them (docs/ablations.md).  `pooling` and `projection` make
    a slot of a group's hidden states (`head`).  `chunk` is the streaming unit in tokens.

    `wrapper`: two special tokens around each slot (the paper), around the whole memory, or none.  `positions`:
    consecutive (the paper); strided, each slot at the position of its first token; or randomised, which is consecutive
    in use, while training sets `draw` to lay the slots out at sorted random positions, other ones for each `draw`.
    `gap` is how many positions lie empty between the memory and what follows: training draws it at random, so that
    slots are also read from further away than any training document is long.
    """

    ratio: int = 16
    window: int = 64
    mask: Mask = "bidirectional"
    pooling: Pooling = "mean"
    projection: Projection = "linear"
    wrapper: Wrapper = "span"
    positions: PositionRule = "strided"
    chunk: int = 4096
    gap: int = 0
    draw: int = 0

    def __post_init__(self) -> None:
        require(1 <= self.ratio <= 1024, "ratio", self.ratio, "1 to 1024")
        whole = self.window < self.ratio or self.window % self.ratio == 0
        multiple = f"0 (one group) or a multiple of the ratio {self.ratio}, at most {WIDEST_WINDOW}"
        require(whole and 0 <= self.window <= WIDEST_WINDOW, "window", self.window, multiple)
        require(self.mask in MASKS, "mask", self.mask, ", ".join(MASKS))
        require(self.pooling in POOLINGS, "pooling", self.pooling, ", ".join(POOLINGS))
        require(self.projection in PROJECTIONS, "projection", self.projection, ", ".join(PROJECTIONS))
        require(self.wrapper in WRAPPERS, "wrapper", self.wrapper, ", ".join(WRAPPERS))
        require(self.gap >= 0, "gap", self.gap, "0 or more positions")
        require(self.draw >= 0, "draw", self.draw, "0 (consecutive) or more")
        require(self.positions in POSITION_RULES, "positions", self.positions, ", ".join(POSITION_RULES))
        unit = "window" if self.window > self.ratio else "ratio"
        fits = self.chunk >= self.window_tokens and self.chunk % self.window_tokens == 0
        require(fits, "chunk", self.chunk, f"a multiple of the {unit}")

    @property
    def window_tokens(self) -> int:
        """How many tokens the encoder sees at once."""
        return max(self.window, self.ratio)

    def effective_ratio(self, tokens: int) -> float:
        """Document tokens divided by the decoder's memory positions for one document of `tokens` tokens."""
        slots = -(-tokens // self.ratio)
        positions = {"slot": 3 * slots, "span": slots + 2, "none": slots}[self.wrapper]
        return tokens / positions


# Section 3.1 and appendix I: 16 tokens to a slot, each group encoded alone, averaged and projected linearly; every slot
# wrapped, consecutive positions, 4,096-token documents.
PAPER = PooledSettings(ratio=16, window=0, mask="causal", wrapper="slot", positions="consecutive", chunk=4096)
