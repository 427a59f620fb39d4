"""The settings of pooled memory, and those of the paper."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from memfold.core.config import require
from memfold.core.system import DRAWN, ReadSettings, TrainSettings

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
class PooledFold:
    """How a document becomes slots, and how the decoder was trained to meet them: what folding fixes.

    `ratio` tokens become one slot.  The encoder sees `window` tokens at once, a multiple of the ratio, or (0, the
    paper, and any window smaller than the ratio) one group; inside a window `mask` lets a token see those before it, or
    all.  Window and mask are as the ablations favour them (docs/ablations.md).  `pooling` and `projection` make
    a slot of a group's hidden states (`head`).  `chunk` is the streaming unit in tokens.

    `wrapper`: two special tokens around each slot (the paper), around the whole memory, or none.  `positions`:
    consecutive (the paper); strided, each slot at the position of its first token; or randomised, which is consecutive
    in use, while training lays the slots out at sorted random positions.
    """

    ratio: int = 16
    window: int = 64
    mask: Mask = "bidirectional"
    pooling: Pooling = "mean"
    projection: Projection = "linear"
    wrapper: Wrapper = "span"
    positions: PositionRule = "strided"
    chunk: int = 4096

    def __post_init__(self) -> None:
        require(1 <= self.ratio <= 1024, "ratio", self.ratio, "1 to 1024")
        whole = self.window < self.ratio or self.window % self.ratio == 0
        multiple = f"0 (one group) or a multiple of the ratio {self.ratio}, at most {WIDEST_WINDOW}"
        require(whole and 0 <= self.window <= WIDEST_WINDOW, "window", self.window, multiple)
        require(self.mask in MASKS, "mask", self.mask, ", ".join(MASKS))
        require(self.pooling in POOLINGS, "pooling", self.pooling, ", ".join(POOLINGS))
        require(self.projection in PROJECTIONS, "projection", self.projection, ", ".join(PROJECTIONS))
        require(self.wrapper in WRAPPERS, "wrapper", self.wrapper, ", ".join(WRAPPERS))
        require(self.positions in POSITION_RULES, "positions", self.positions, ", ".join(POSITION_RULES))
        unit = "window" if self.window > self.ratio else "ratio"
        fits = self.chunk >= self.window_tokens and self.chunk % self.window_tokens == 0
        require(fits, "chunk", self.chunk, f"a multiple of the {unit}")

    @property
    def window_tokens(self) -> int:
        """How many tokens the encoder sees at once."""
        return max(self.window, self.ratio)

    def slots(self, tokens: int) -> int:
        """How many slots a document of so many tokens becomes."""
        return -(-tokens // self.ratio)

    def decoder_positions(self, tokens: int) -> int:
        """Positions that the decoder sees for a document of so many tokens, wrappers included."""
        slots = self.slots(tokens)
        return {"slot": 3 * slots, "span": slots + 2, "none": slots}[self.wrapper]


@dataclass(frozen=True)
class PooledRead(ReadSettings):
    """What reading may change.

    `cite`: by matching what was recalled, or by attention.  `unfold`: about how many tokens of cited text are read
    again before the final answer (0: none).  `gap` is how many positions lie empty between the memory and what follows;
    `draw`, with randomised positions, which of the random layouts is taken (0: consecutive).  Both are drawn anew for
    each training batch, and 0 in use.
    """

    cite: Cite = "recall"
    unfold: int = 0
    gap: int = field(default=0, metadata=DRAWN)
    draw: int = field(default=0, metadata=DRAWN)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.cite in CITES, "cite", self.cite, ", ".join(CITES))
        require(self.unfold >= 0, "unfold", self.unfold, "0 (off) or more tokens")
        require(self.gap >= 0, "gap", self.gap, "0 or more positions")
        require(self.draw >= 0, "draw", self.draw, "0 (consecutive) or more")


@dataclass(frozen=True)
class PooledTrain(TrainSettings):
    """What training varies from batch to batch.

    One of `ratios` is drawn; in half of the batches up to `max_gap` positions are left empty after the memory, so that
    slots are also read from further away than any training document is long.
    """

    ratios: tuple[int, ...] = (16,)
    max_gap: int = 0

    def __post_init__(self) -> None:
        require(bool(self.ratios) and min(self.ratios) > 0, "ratios", self.ratios, "one or more positive numbers")
        require(self.max_gap >= 0, "max_gap", self.max_gap, "0 or more positions")


# Section 3.1 and appendix I: 16 tokens to a slot, each group encoded alone, averaged and projected linearly; every slot
# wrapped, consecutive positions, 4,096-token documents.
PAPER = PooledFold(ratio=16, window=0, mask="causal", wrapper="slot", positions="consecutive", chunk=4096)
