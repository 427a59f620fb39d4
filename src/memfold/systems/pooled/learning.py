"""The settings, training and costs of pooled memory, what it adds to a model, and its record in the model folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from memfold.core.config import require
from memfold.core.footprint import Footprint, Pass
from memfold.core.system import Capabilities, MemorySystem, SystemT
from memfold.systems.pooled.settings import (
    ADAPTER,
    BATCH_TOKENS,
    END,
    HEAD,
    PAPER,
    START,
    PooledFold,
    PooledRead,
    PooledTrain,
)
from memfold.systems.shared.linear import add_adapter, matrices

if TYPE_CHECKING:
    from torch import Tensor, nn

    from memfold.backbone.model import Backbone

DEFAULT_RATIO = 16  # default for a model that was trained at several ratios
SEEDS = 1 << 31  # number of random layouts
PooledT = TypeVar("PooledT", bound="PooledLearning")


class PooledLearning(MemorySystem[PooledFold, PooledRead, PooledTrain]):
    """Base class of pooled memory, with everything except folding and answering."""

    groups = (PooledFold, PooledRead, PooledTrain)
    drawn = ("ratio", "gap", "draw")
    tokens = (START, END)

    @classmethod
    def published(cls: type[SystemT]) -> SystemT:
        """Create the system with the settings of the paper."""
        return cls(PAPER)

    @property
    def fixed(self) -> dict[str, Any]:
        """All folding settings except `chunk`, which follows from the blocks of a memory."""
        return {name: value for name, value in asdict(self.fold).items() if name != "chunk"}

    @property
    def capabilities(self) -> Capabilities:
        """Slots, unfolding and activation checkpointing; whether positions are consecutive depends on the settings.

        With `candidates`, the length of a call does not depend on that of the documents.
        """
        unfolded = max(self.read.unfold, self.read.doubt)
        block = -(-self.fold.chunk // self.fold.shortest_group)  # slots at most
        most = self.fold.decoder_positions(self.read.candidates * block)
        return Capabilities(
            slots=True,
            unfolds=True,
            rereads_text=unfolded > 0 or self.read.candidates > 0,
            activation_checkpointing=True,
            consecutive=self.fold.positions != "strided" and not self.train.max_gap,
            pass_tokens=BATCH_TOKENS,
            untrained=False,
            call_positions=max(most, unfolded) if self.read.candidates else None,
        )

    @property
    def ratio(self) -> int:
        """Document tokens per slot."""
        return self.fold.ratio

    def at_ratio(self: SystemT, ratio: int) -> SystemT:
        """Return a copy of the system at another ratio, with the same window."""
        return self.changed(ratio=ratio, ratios=(ratio,))

    def unfolding(self: SystemT, tokens: int) -> SystemT:
        """Return a copy of the system that reads about `tokens` tokens of cited text again before the answer."""
        return self.changed(unfold=tokens)

    def doubting(self: SystemT, tokens: int) -> SystemT:
        """Return a copy of the system that reads about `tokens` tokens of text again where a reply is doubtful."""
        return self.changed(doubt=tokens)

    def effective_ratio(self, tokens: int, slots: int | None = None) -> float | None:
        """Return document tokens per decoder position, including wrapper tokens; None if only candidates are read."""
        if self.read.candidates:
            return None
        return tokens / self.fold.decoder_positions(self.fold.slots(tokens) if slots is None else slots)

    def prepare(self, backbone: Backbone) -> None:
        """Add the wrapper tokens, the head and the adapter that the settings require to a model.

        Raises:
            ConfigError: for a training ratio that the other settings do not allow, or a separate encoder that lacks
                the adapter.
            CheckpointError: if an existing head cannot be converted to the required one.
        """
        from memfold.backbone.tokens import add_special_tokens
        from memfold.systems.pooled.head import add_head

        makes_slots = backbone.encoder is None or ADAPTER in backbone.encoder.roles
        require(makes_slots or not self.fold.adapters, "adapters", True, "false with a separate encoder that has none")
        for ratio in self.train.ratios:  # raises for a ratio that is not possible
            self.changed(ratio=ratio)
        if self.fold.start_token not in backbone.tokenizer.get_vocab():
            add_special_tokens(backbone, (self.fold.start_token, self.fold.end_token))
        add_head(backbone, self.fold)
        if self.fold.adapters:
            add_adapter(backbone, ADAPTER, self.train.rank)

    @classmethod
    def read_head(cls, tensors: Mapping[str, Tensor]) -> nn.Module:
        """Build the projection, and the pooling before it, from stored tensors."""
        from memfold.systems.pooled.head import read_head

        return read_head(tensors)

    def record(self, previous: Mapping[str, Any]) -> dict[str, Any]:
        """Return the folding settings, with all trained ratios in place of one."""
        settings = asdict(self.fold)
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
        """Return whether the current ratio is one of the trained ratios, or none are recorded."""
        ratios = self.trained_ratios(record)
        return not ratios or self.fold.ratio in ratios

    @classmethod
    def trained_ratios(cls, record: Mapping[str, Any]) -> tuple[int, ...]:
        """Return all trained ratios."""
        return tuple(record.get("ratios", ()))

    def draw(self: PooledT, rng: Random, seed: int | None) -> PooledT:
        """Sample the ratio, the gap and the layout of one batch; validation uses the layout of inference."""
        ratio, gap = rng.choice(self.train.ratios), _gap(rng, self.train.max_gap)
        randomised = seed is not None and self.fold.positions == "randomised"
        layout = 1 + seed % SEEDS if seed is not None and randomised else 0
        return self.changed(ratio=ratio, gap=gap, draw=layout)

    def costliest(self: PooledT) -> PooledT:
        """Return a copy of the system at the lowest of its training ratios."""
        return self.changed(ratio=min(self.train.ratios))

    def footprint(self, tokens: float) -> Footprint:
        """Return the cost: each token is encoded once, in windows; the decoder sees slots and wrapper tokens, those of
        the candidates if not all blocks are read."""
        count, fold = round(tokens), self.fold
        read = min(tokens, self.read.candidates * fold.chunk) if self.read.candidates else tokens
        positions = read * fold.decoder_positions(fold.slots(round(read))) / round(read) if count else 0.0
        windows = Pass(-(-count // fold.window_tokens), fold.window_tokens, fold.mask == "causal")
        return Footprint(positions, encoded=tokens, slots=fold.slots(count), passes=windows)

    def parameters(self, hidden_size: int) -> dict[str, int]:
        """Return the size of the projection, for mean pooling and a linear projection without a separate encoder."""
        return {f"heads.{HEAD}.weight": hidden_size**2}

    def beside(self, modules: Mapping[str, tuple[int, int]]) -> dict[str, int]:
        """Return the sizes of the matrices of the adapter, if the settings ask for it."""
        return matrices(modules, ADAPTER, self.train.rank) if self.fold.adapters else {}

    def encode_only(self, tokens: Sequence[int], backbone: Backbone) -> None:
        """Run the encoder without its head, over the windows and in the passes of folding, with causal attention."""
        import torch

        from memfold.systems.pooled.encoder import fixed_windows, passes

        encoder, size = backbone.compressor, self.fold.window_tokens
        with torch.no_grad():
            for start in range(0, len(tokens), BATCH_TOKENS):
                batch = tokens[start : start + BATCH_TOKENS]
                windows = fixed_windows(batch, size, size)
                windows = [window for window in windows if len(window.tokens) == size] or windows
                for part in passes(encoder, windows, self.fold.ratio, size):
                    encoder.hidden(torch.tensor([window.tokens for window in part], device=encoder.device))

    def layouts(self: SystemT) -> dict[str, SystemT]:
        """Return the system with both wrappers: around the whole memory (cheap), and around each slot (the paper)."""
        return {"span": self.changed(wrapper="span"), "slot": self.changed(wrapper="slot")}


def _gap(rng: Random, most: int) -> int:
    """Sample a gap: none in half of the batches, otherwise log-uniform up to `most`."""
    has_gap = rng.random() < 0.5
    return round(most ** rng.random()) if most and has_gap else 0
