"""The settings, training and costs of the KV memory bank, and what it adds to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from memfold.core.config import require
from memfold.core.document import Document
from memfold.core.footprint import Footprint, Pass
from memfold.core.model import Model, ModelRecord
from memfold.core.system import Capabilities, HeadOutput, MemorySystem, SystemT
from memfold.core.types import Memory, Sample, Trace
from memfold.systems.kvbank.labels import labelled
from memfold.systems.kvbank.settings import (
    BATCH_TOKENS,
    BYTES,
    COMPRESSOR,
    GATE,
    GATE_HEAD,
    GIGABYTE,
    HEAD,
    PAPER,
    REASONER,
    KvbankFold,
    KvbankRead,
    KvbankTrain,
)
from memfold.systems.shared.linear import matrices
from memfold.systems.shared.notes import fitting_chunk, fitting_note

if TYPE_CHECKING:
    from torch import Tensor, nn

    from memfold.backbone.model import Backbone

DEFAULT_RATIO = 4  # default for a model that was trained at several ratios
READING = ("gate", "reading", "note", "passes", "order")  # reading settings that a model is trained for
POSITIVE = 3.0  # weight of blocks that should be opened in the loss of the gate (section 3.3.1)
_GATE = f"heads.{GATE_HEAD}"
KvbankT = TypeVar("KvbankT", bound="KvbankLearning")


class KvbankLearning(MemorySystem[KvbankFold, KvbankRead, KvbankTrain]):
    """Base class of the KV memory bank, with everything except folding and answering."""

    groups = (KvbankFold, KvbankRead, KvbankTrain)
    drawn = ("ratio",)
    kept = ("store",)

    @classmethod
    def published(cls: type[SystemT]) -> SystemT:
        """Create the system with the settings of the paper."""
        return cls(PAPER, KvbankRead(gate="head"))

    @classmethod
    def fitting(cls, model: ModelRecord) -> dict[str, Any]:
        """Return chunk and note of the paper, or shorter ones that fit into the window; a chunk is read twice by the
        compressor that rewrites it."""
        return {"chunk": fitting_chunk(model.window // 2, KvbankFold().chunk), "note": fitting_note(model.window)}

    @property
    def fixed(self) -> dict[str, Any]:
        """All folding settings except what a memory stores, and those of chunks, whose lengths its blocks have, unless
        positions depend on them."""
        free = () if self.fold.positions == "unrotated" else ("chunk", "borders")
        return {name: value for name, value in asdict(self.fold).items() if name not in (*free, *self.kept)}

    @property
    def capabilities(self) -> Capabilities:
        """Slots; calls have a prefix, so that inference engines that take embeddings cannot serve them."""
        text = self.read.reading == "text"
        return Capabilities(
            slots=True,
            rereads_text=text or self.read.gate == "bm25" or self.read.candidates > 0 or not self.stores_slots,
            consecutive=False,
            pass_tokens=BATCH_TOKENS,
            untrained=self.fold.compressor != "trained",
            call_positions=(self.fold.chunk if text else self.fold.length(self.fold.chunk)) + 2 * self.read.note,
        )

    @property
    def stores_slots(self) -> bool:
        """Whether a memory stores its blocks."""
        return self.fold.store != "text"

    def settled(self: KvbankT, documents: Sequence[Document], model: Model) -> KvbankT:
        """Return the system that stores blocks, or text if the blocks would take more room, if that is to be chosen."""
        if self.fold.store != "auto":
            return self
        most = GIGABYTE * self.read.gigabytes * self.fold.ratio / (BYTES * (self.slot_size(model) or 1))
        tokens = 0
        for document in documents:
            for piece in document.pieces():
                tokens += len(model.tokenize(piece)[0])
                if tokens > most:
                    return self.changed(store="text")
        return self.changed(store="blocks")

    @property
    def ratio(self) -> int:
        """Document tokens per slot."""
        return self.fold.ratio

    def at_ratio(self: SystemT, ratio: int) -> SystemT:
        """Return a copy of the system at another ratio."""
        return self.changed(ratio=ratio, ratios=(ratio,))

    def effective_ratio(self, tokens: int, slots: int | None = None) -> None:
        """Return None: which blocks the decoder reads depends on the question."""

    def prepare(self, backbone: Backbone) -> None:
        """Add the memory token, the head of the gate and the adapters to a model, and freeze the base weights.

        Raises:
            ConfigError: for a training ratio that the other settings do not allow, or blocks that are made later, which
                no gradient reaches.
        """
        require(self.fold.store == "blocks", "store", self.fold.store, "'blocks' in training")
        for ratio in self.train.ratios:
            self.changed(ratio=ratio)
        from memfold.systems.kvbank.head import add_parts

        add_parts(backbone, self._ranks, self.train.projections)

    @property
    def _ranks(self) -> dict[str, int]:
        """The rank of each adapter."""
        ranks = {GATE: self.train.gate_rank}
        if self.fold.adapters:
            ranks = {COMPRESSOR: self.train.compressor_rank, REASONER: self.train.reasoner_rank} | ranks
        return ranks

    @classmethod
    def read_head(cls, tensors: Mapping[str, Tensor]) -> nn.Module:
        """Build the memory token and the head of the gate from stored tensors."""
        from memfold.systems.kvbank.head import read_head

        return read_head(tensors)

    def record(self, previous: Mapping[str, Any]) -> dict[str, Any]:
        """Return the folding settings, with all trained ratios in place of one, and what was trained to read.

        A gate that was trained stays the one to use after a stage that opens every block.
        """
        settings = {name: value for name, value in asdict(self.fold).items() if name not in self.kept}
        settings |= {name: getattr(self.read, name) for name in READING}
        settings |= {"gate": "head"} if previous.get("gate") == "head" else {}
        del settings["ratio"]
        return settings | {"ratios": sorted({*previous.get("ratios", ()), *self.train.ratios})}

    @classmethod
    def trained_settings(cls, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings in the record of a model folder, with one of its ratios."""
        settings = {name: value for name, value in record.items() if name != "ratios"}
        ratios = cls.trained_ratios(record)
        if ratios:
            settings["ratio"] = DEFAULT_RATIO if DEFAULT_RATIO in ratios else max(ratios)
        return settings

    def trained_at(self, record: Mapping[str, Any]) -> bool:
        """Return whether the current ratio is trained; a compressor without training has any."""
        ratios = self.trained_ratios(record)
        return self.fold.compressor != "trained" or not ratios or self.fold.ratio in ratios

    @classmethod
    def trained_ratios(cls, record: Mapping[str, Any]) -> tuple[int, ...]:
        """Return all trained ratios."""
        return tuple(record.get("ratios", ()))

    def draw(self: KvbankT, rng: Random, seed: int | None) -> KvbankT:
        """Sample the ratio of one batch."""
        ratio = rng.choice(self.train.ratios)
        rng.random()
        return self.changed(ratio=ratio)

    def labelled(self, sample: Sample, memory: Memory, trace: Trace) -> Trace:
        """Return a trace in which the scores of the gate are labels; see `labels`."""
        return labelled(sample, memory, trace, self.read.overflow, self.train.unchanged)

    def losses(self, outputs: Sequence[HeadOutput]) -> dict[str, Tensor]:
        """Return the loss of the gate: binary cross-entropy, with a larger weight for blocks that should be opened.

        A trained step holds its label (1 or 0) as its score (`script`, `labelled`).
        """
        if not outputs:
            return {}
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits

        scores = torch.stack([output.score for output in outputs])
        labels = scores.new_tensor([output.step.reply.score or 0.0 for output in outputs])
        weight = scores.new_tensor(POSITIVE)
        return {"gate": binary_cross_entropy_with_logits(scores, labels, pos_weight=weight)}

    def costliest(self: KvbankT) -> KvbankT:
        """Return a copy of the system at the lowest of its training ratios."""
        return self.changed(ratio=min(self.train.ratios))

    def footprint(self, tokens: float) -> Footprint:
        """Return the cost: each token is encoded once, with its memory tokens, in windows or whole chunks."""
        count, fold = round(tokens), self.fold
        window = min(fold.window or fold.chunk, max(count, 1))
        encoded = tokens + (fold.slots(count) if fold.compressor == "trained" else 0)
        passes, blocks = Pass(-(-count // window), window), -(-count // fold.chunk)
        written = float(blocks * self.read.note) if self.read.reading == "note" else 0.0
        return Footprint(fold.slots(count), encoded, fold.slots(count), passes, written)

    def parameters(self, hidden_size: int) -> dict[str, int]:
        """Return the sizes of the memory token and the head of the gate."""
        return {f"heads.{HEAD}.token": hidden_size, f"{_GATE}.weight": hidden_size, f"{_GATE}.bias": 1}

    def beside(self, modules: Mapping[str, tuple[int, int]]) -> dict[str, int]:
        """Return the sizes of the matrices of the adapters and of the projections of memory tokens (with biases)."""
        added: dict[str, int] = {}
        for role, rank in self._ranks.items():
            added |= matrices(modules, role, rank)
        for name, (inner, outer) in modules.items():
            letter = name.rsplit(".", 1)[-1].removesuffix("_proj")
            if letter in self.train.projections:
                added[f"heads.{HEAD}.own.{letter}.{name}"] = inner * outer + (outer if letter != "o" else 0)
        return added
