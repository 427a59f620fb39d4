"""The settings of pooled memory, and their values in the paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from memfold.core.config import require, require_known
from memfold.core.settings import ReadSettings, TrainSettings

Cite = Literal["recall", "attention"]
Mask = Literal["causal", "bidirectional"]
Pooling = Literal["mean", "gqa"]
Projection = Literal["linear", "mlp", "norm_mlp"]
Wrapper = Literal["slot", "span", "none"]
PositionRule = Literal["consecutive", "strided", "randomised"]
Grouping = Literal["fixed", "sentence"]

CITES: tuple[Cite, ...] = ("recall", "attention")
MASKS: tuple[Mask, ...] = ("causal", "bidirectional")
POOLINGS: tuple[Pooling, ...] = ("mean", "gqa")
PROJECTIONS: tuple[Projection, ...] = ("linear", "mlp", "norm_mlp")
WRAPPERS: tuple[Wrapper, ...] = ("slot", "span", "none")
POSITION_RULES: tuple[PositionRule, ...] = ("consecutive", "strided", "randomised")
GROUPINGS: tuple[Grouping, ...] = ("fixed", "sentence")
WIDEST_WINDOW = 1024
# Maximum tokens of a forward pass of the encoder: enough to use a GPU fully, with small memory requirements.
BATCH_TOKENS = 8192
HEAD = "pooled"  # name of the head in a model folder
ADAPTER = "pooled"  # name of the adapter
START, END = "<MEM_START>", "<MEM_END>"  # wrapper tokens


@dataclass(frozen=True)
class PooledFold:
    """Settings that folding fixes: how a document becomes slots, and the layout that the decoder was trained with.

    A group of tokens becomes one slot.  With `groups` "fixed" (the paper), it has `ratio` tokens.  With "sentence", it
    begins where a sentence begins and has about `ratio` tokens: `shortest` to `longest`, where 0 is half of the ratio
    and one and a half times the ratio.  Only the last group before a long sentence or a chunk border is shorter.

    The encoder sees `window` tokens at a time, a multiple of the ratio; 0 (the paper), or any value below the ratio, is
    one group.  With groups at sentences, a window holds the groups that fit into it.  Within a window, `mask` is causal
    (the paper) or bidirectional attention.  The default window and mask are those that the ablations favour
    (docs/ablations.md).  `pooling` and `projection` determine how the hidden states of a group become a slot (`head`).
    `chunk` is the number of tokens in which a document is streamed.

    `wrapper`: two special tokens around each slot (the paper), around the whole memory, or none; they are `start_token`
    and `end_token`.  `positions`:
    consecutive (the paper); strided, each slot at the position of the first token of its group; or randomised, which is
    random sorted positions in training and consecutive positions in inference.

    With `adapters` (not in the paper), the adapter `ADAPTER` of the model makes the slots and reads them, so that the
    weights stay as they are for other systems, and for text.
    """

    ratio: int = 16
    groups: Grouping = "fixed"
    shortest: int = 0
    longest: int = 0
    window: int = 64
    mask: Mask = "bidirectional"
    pooling: Pooling = "mean"
    projection: Projection = "linear"
    wrapper: Wrapper = "span"
    positions: PositionRule = "strided"
    chunk: int = 4096
    start_token: str = START
    end_token: str = END
    adapters: bool = False

    def __post_init__(self) -> None:
        require(1 <= self.ratio <= 1024, "ratio", self.ratio, "1 to 1024")
        require_known("groups", self.groups, GROUPINGS)
        self._check_sentences()
        is_multiple = self.window < self.ratio or self.window % self.ratio == 0
        multiple = f"0 (one group) or a multiple of the ratio {self.ratio}, at most {WIDEST_WINDOW}"
        require(is_multiple and 0 <= self.window <= WIDEST_WINDOW, "window", self.window, multiple)
        require_known("mask", self.mask, MASKS)
        require_known("pooling", self.pooling, POOLINGS)
        require_known("projection", self.projection, PROJECTIONS)
        require_known("wrapper", self.wrapper, WRAPPERS)
        require_known("positions", self.positions, POSITION_RULES)
        unit = "window" if self.window > self.ratio else "ratio"
        size = max(self.window, self.ratio)
        fits = self.chunk >= self.window_tokens and self.chunk % size == 0
        require(fits, "chunk", self.chunk, f"a multiple of the {unit}, at least {self.window_tokens}")

    def _check_sentences(self) -> None:
        at_sentences, limits = self.groups == "sentence", (self.shortest, self.longest)
        require(at_sentences or limits == (0, 0), "shortest, longest", limits, 'only with groups = "sentence"')
        require(self.shortest >= 0, "shortest", self.shortest, "1 token or more, or 0 for half of the ratio")
        fits = self.longest == 0 or self.shortest_group <= self.longest <= WIDEST_WINDOW
        allowed = f"{self.shortest_group} (the shortest group) to {WIDEST_WINDOW}, or 0 for one and a half of the ratio"
        require(fits, "longest", self.longest, allowed)
        most = f"1 to {self.longest_group} (the longest group)"
        require(self.shortest_group <= self.longest_group, "shortest", self.shortest, most)
        overlap = at_sentences and self.wrapper == "slot" and self.positions == "strided"
        require(not overlap, "wrapper", self.wrapper, "span, none (at strided positions, with groups at sentences)")

    @property
    def shortest_group(self) -> int:
        """Number of tokens below which a group takes in the next sentence."""
        if self.groups == "fixed":
            return self.ratio
        return self.shortest or max(1, self.ratio // 2)

    @property
    def longest_group(self) -> int:
        """Maximum number of tokens of a group."""
        if self.groups == "fixed":
            return self.ratio
        return self.longest or self.ratio + self.ratio // 2

    @property
    def window_tokens(self) -> int:
        """Number of tokens that the encoder sees at a time."""
        return max(self.window, self.longest_group)

    @property
    def adapter(self) -> str | None:
        """Name of the adapter that makes and reads slots, if there is one."""
        return ADAPTER if self.adapters else None

    def slots(self, tokens: int) -> int:
        """Return the number of slots of a document with `tokens` tokens; an estimate for groups at sentences."""
        return -(-tokens // self.ratio)

    def decoder_positions(self, slots: int) -> int:
        """Return the number of decoder positions of a number of slots, including wrapper tokens."""
        return {"slot": 3 * slots, "span": slots + 2, "none": slots}[self.wrapper]


@dataclass(frozen=True)
class PooledRead(ReadSettings):
    """Settings that can change when reading.

    `cite`: find citations by matching the recalled text, or by attention.  `unfold`: the approximate number of tokens
    of cited text that are read again before the final answer; 0 disables unfolding.  `doubt`: the same number, for
    replies that say something that the text does not contain (`is_doubtful`).  `candidates`: the number of blocks that
    a question reads, found by BM25 (`shared.candidates`) and laid out as if the memory had no others, so that a memory
    of any length fits the window; 0 is all.  It needs blocks of a small `chunk`, and the text.  If fewer blocks share a
    word with the question, the first others are read too.  Supervised training reads all blocks and refuses it.

    `gap`: the number of empty positions between the memory and the text after it.  `draw`: selects one of the random
    layouts if positions are randomised; 0 is consecutive positions.  Training samples `gap` and `draw` for each batch;
    both are 0 in inference.
    """

    cite: Cite = "recall"
    unfold: int = 0
    doubt: int = 0
    candidates: int = 0
    gap: int = 0
    draw: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_known("cite", self.cite, CITES)
        require(self.unfold >= 0, "unfold", self.unfold, "0 (off) or more tokens")
        require(self.doubt >= 0, "doubt", self.doubt, "0 (off) or more tokens")
        require(self.candidates >= 0, "candidates", self.candidates, "1 block or more, or 0 for all")
        require(self.gap >= 0, "gap", self.gap, "0 or more positions")
        require(self.draw >= 0, "draw", self.draw, "0 (consecutive) or more")


@dataclass(frozen=True)
class PooledTrain(TrainSettings):
    """Settings that training varies between batches.

    One of `ratios` is sampled per batch.  In half of the batches, up to `max_gap` positions after the memory stay
    empty, so that slots are also read from distances longer than any training document.  `rank` is the rank of the
    adapter, if there is one.
    """

    ratios: tuple[int, ...] = (16,)
    max_gap: int = 0
    rank: int = 32

    def __post_init__(self) -> None:
        require(bool(self.ratios) and min(self.ratios) > 0, "ratios", self.ratios, "one or more positive numbers")
        require(self.max_gap >= 0, "max_gap", self.max_gap, "0 or more positions")
        require(self.rank > 0, "rank", self.rank, "1 or more")


# Section 3.1 and appendix I: 16 tokens per slot, each group encoded alone, mean pooling, linear projection, wrappers
# around each slot, consecutive positions, documents of 4,096 tokens.
PAPER = PooledFold(ratio=16, window=0, mask="causal", wrapper="slot", positions="consecutive", chunk=4096)
