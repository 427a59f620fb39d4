"""The settings of the KV memory bank, and their values in the paper."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from memfold.core.config import require, require_known
from memfold.core.settings import ReadSettings, TrainSettings
from memfold.systems.shared.notes import NOTE, OVERFLOWS, STOPS, Overflow, Stop
from memfold.systems.shared.tagged import PROMPTS, Prompts

Compressor = Literal["trained", "reconstruction", "expected", "norm", "recent", "random"]
PositionRule = Literal["auto", "slots", "original", "unrotated"]
Gate = Literal["head", "ask", "bm25", "open"]
Reading = Literal["note", "text", "block"]
Order = Literal["text", "best"]
Borders = Literal["sentence", "exact"]
Letter = Literal["q", "k", "v", "o"]
Store = Literal["blocks", "text", "auto"]

COMPRESSORS: tuple[Compressor, ...] = ("trained", "reconstruction", "expected", "norm", "recent", "random")
POSITION_RULES: tuple[PositionRule, ...] = ("auto", "slots", "original", "unrotated")
BORDERS: tuple[Borders, ...] = ("sentence", "exact")
STORES: tuple[Store, ...] = ("blocks", "text", "auto")
GATES: tuple[Gate, ...] = ("head", "ask", "bm25", "open")
WITHOUT_SLOTS: tuple[Gate, ...] = ("bm25", "open")  # gates that do not look at the slots of a block
READINGS: tuple[Reading, ...] = ("note", "text", "block")
ORDERS: tuple[Order, ...] = ("text", "best")
BATCH_TOKENS = 8192  # tokens of text in one forward pass of the compressor, unless a single window has more
GIGABYTE, BYTES = 10**9, 2  # the unit of `gigabytes`, and bytes of a value in 16 bits
HEAD = "kvbank"  # name of the head in a model folder
GATE_HEAD = f"{HEAD}.gate"
COMPRESSOR, REASONER, GATE = "compressor", "reasoner", "gate"  # the adapters


@dataclass(frozen=True)
class KvbankFold:
    """Settings that folding fixes.

    A chunk of at most `chunk` tokens becomes one block, with one slot per `ratio` tokens.  It ends after a sentence if
    `borders` is "sentence", and after exactly `chunk` tokens if it is "exact" (the paper).  A slot is the keys and
    values of one position at all layers.  `compressor` "trained" (the paper) computes them at memory tokens, one after
    every `ratio` tokens of text, with the adapter of the compressor.  Any other value needs no training: it keeps, per
    layer and head, the pairs of text tokens with the highest score of that method (`selection`).

    The trained compressor reads `window` tokens of a chunk at a time, and in later windows the memory tokens of
    earlier ones; 0 is the whole chunk in one pass.

    `positions` says how keys are rotated for reading: "slots", as positions 0, 1, 2, ... of the block; "original", as
    they were in the pass that made them; "unrotated", not at all, as the public release of LycheeMemory reads them: the
    prompt then goes on after the slots of a whole chunk, however many the block has.  "auto" becomes "slots" with the
    trained compressor, and "original" with any other, which answers more (docs/kvbank.md).

    `store` says what a memory keeps: "blocks"; "text", of which the blocks are made when they are read (`made`); or
    "auto", the blocks if they take no more than `gigabytes` in 16 bits, else the text.

    If `opening` is true, the beginning of the prompt stands before the block, otherwise after it, as in that release.
    If `adapters` is false, the weights of the model itself compress and read, as in that release.
    """

    ratio: int = 4
    compressor: Compressor = "reconstruction"
    window: int = 0
    positions: PositionRule = "auto"
    chunk: int = 4096
    borders: Borders = "sentence"
    opening: bool = True
    adapters: bool = True
    store: Store = "blocks"

    def __post_init__(self) -> None:
        require(1 <= self.ratio <= 64, "ratio", self.ratio, "1 to 64")
        require_known("compressor", self.compressor, COMPRESSORS)
        require_known("positions", self.positions, POSITION_RULES)
        if self.positions == "auto":
            object.__setattr__(self, "positions", "slots" if self.compressor == "trained" else "original")
        fits = self.window == 0 or (self.window > 0 and self.window % self.ratio == 0)
        require(fits, "window", self.window, f"0 (the whole chunk) or a multiple of the ratio {self.ratio}")
        usable = self.window == 0 or self.compressor == "trained"
        require(usable, "window", self.window, f"0 with compressor = {self.compressor!r}, which reads a chunk at once")
        require(self.chunk > 0, "chunk", self.chunk, "1 token or more")
        require_known("borders", self.borders, BORDERS)
        require_known("store", self.store, STORES)

    def slots(self, tokens: int) -> int:
        """Return the number of slots of a chunk of `tokens` tokens."""
        return -(-tokens // self.ratio)

    def length(self, tokens: int) -> int:
        """Return the number of positions that a block of `tokens` tokens takes, after which a prompt goes on."""
        if self.positions == "unrotated":
            return self.slots(self.chunk)
        if self.positions == "slots":
            return self.slots(tokens)
        return tokens + (self.slots(tokens) if self.compressor == "trained" else 0)


@dataclass(frozen=True)
class KvbankRead(ReadSettings):
    """Settings that can change when reading.

    `gate` decides which blocks are read: "head" (the paper), a trained classifier; "ask", the model itself, by the odds
    of yes against no; "bm25", word overlap with the question and the note; "open", every block.  A block is opened if
    its score, a probability, is above `threshold`; BM25 opens the `most` best blocks.  `most` 0 is no limit.

    `reading` "note" (the paper) rewrites a note of at most `note` tokens at each opened block, and answers from the
    note; `overflow` is what becomes of a note that is longer (`notes.write_note`).  "text" does the same with the text
    of the opened blocks in place of their keys and values, which the gate still sees.  "block" answers from the best
    block alone, with one call.  `ahead` is the largest number of blocks that the gate scores together while the note is
    unchanged.  With more than one of `passes` (the paper: 1), the gate sees the closed blocks again after the last one,
    if the note has changed since: evidence may stand before what shows that it matters.  With
    `order` "best" (the paper: "text"), there are no passes: with each note the gate scores all closed blocks, and the
    best is opened, until none is above the threshold.  With `candidates`, it sees in
    each pass only that many blocks, found by BM25 in view of the note (`shared.candidates`); 0 is all.  With `stop`
    "answered", the question is asked after each change of the note, and reading ends at the first answer.  `prompts` is
    "short", or "tagged" for weights that were trained with the published prompts (`tagged`).

    `gigabytes` (of 10^9 bytes) is the room for blocks that are made when they are read: those used last are kept.
    """

    gate: Gate = "ask"
    threshold: float = 0.5
    most: int = 0
    reading: Reading = "note"
    note: int = NOTE
    overflow: Overflow = "sentence"
    ahead: int = 16
    passes: int = 1
    order: Order = "text"
    candidates: int = 0
    stop: Stop = "end"
    prompts: Prompts = "short"
    gigabytes: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_known("gate", self.gate, GATES)
        require(0 <= self.threshold < 1, "threshold", self.threshold, "0 to below 1")
        require(self.most >= 0, "most", self.most, "1 block or more, or 0 for no limit")
        require_known("reading", self.reading, READINGS)
        require(self.note > 0, "note", self.note, "1 token or more")
        require_known("overflow", self.overflow, OVERFLOWS)
        require(self.ahead > 0, "ahead", self.ahead, "1 block or more")
        require(self.passes > 0, "passes", self.passes, "1 or more")
        require_known("order", self.order, ORDERS)
        require(self.candidates >= 0, "candidates", self.candidates, "1 block or more, or 0 for all")
        require_known("stop", self.stop, STOPS)
        require_known("prompts", self.prompts, PROMPTS)
        require(0 <= self.gigabytes < math.inf, "gigabytes", self.gigabytes, "0 or more")


@dataclass(frozen=True)
class KvbankTrain(TrainSettings):
    """Settings of training: the `ratios` that batches vary, and the ranks of the adapters (paper: 64, 16; ours).

    `projections` are the letters of the projections that memory tokens have of their own, of q, k, v and o.
    `unchanged` is how many blocks of a supervised sample that add nothing are read all the same, with the old note as
    the expected reply: the gate lets some of them through.
    """

    ratios: tuple[int, ...] = (4,)
    compressor_rank: int = 64
    reasoner_rank: int = 64
    gate_rank: int = 16
    projections: tuple[Letter, ...] = ()
    unchanged: int = 1

    def __post_init__(self) -> None:
        require(
            bool(self.ratios) and min(self.ratios) >= 1, "ratios", self.ratios, "one or more ratios, each 1 or more"
        )
        for name in ("compressor_rank", "reasoner_rank", "gate_rank"):
            require(getattr(self, name) > 0, name, getattr(self, name), "1 or more")
        require(self.unchanged >= 0, "unchanged", self.unchanged, "0 or more")
        different = len(set(self.projections)) == len(self.projections)
        require(different, "projections", self.projections, "each of q, k, v and o at most once")


PAPER = KvbankFold(ratio=4, compressor="trained", chunk=4096, borders="exact")  # one pass per chunk (section 3.2.1)
