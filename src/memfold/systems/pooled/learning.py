"""What pooled memory is set to and how it is trained: what it adds to a model, what a folder says of it, its costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from random import Random
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from memfold.backbone.model import Backbone
from memfold.backbone.tokens import add_special_tokens
from memfold.core.system import Capabilities, Footprint, MemorySystem, Pass, SystemT
from memfold.systems.pooled.encoder import BATCH_TOKENS, group_starts, passes
from memfold.systems.pooled.head import HEAD, add_head, read_head
from memfold.systems.pooled.settings import PAPER, PooledFold, PooledRead, PooledTrain

START, END = "<MEM_START>", "<MEM_END>"  # around each slot, or the whole memory
DEFAULT_RATIO = 16  # of a model that was trained at it among others
SEEDS = 1 << 31
PooledT = TypeVar("PooledT", bound="PooledLearning")


class PooledLearning(MemorySystem[PooledFold, PooledRead, PooledTrain]):
    """All of pooled memory but how it folds and is asked."""

    groups = (PooledFold, PooledRead, PooledTrain)
    tokens = (START, END)

    @classmethod
    def published(cls: type[SystemT]) -> SystemT:
        """As the paper has it."""
        return cls(PAPER)

    @property
    def fixed(self) -> dict[str, Any]:
        """All but how a text was cut into chunks, which its blocks tell."""
        return {name: value for name, value in asdict(self.fold).items() if name != "chunk"}

    @property
    def capabilities(self) -> Capabilities:
        """Slots; unfolding, where the memory holds its text."""
        return Capabilities(
            slots=True,
            unfolds=True,
            rereads_text=self.read.unfold > 0,
            activation_checkpointing=True,
            pass_tokens=BATCH_TOKENS,
        )

    @property
    def ratio(self) -> int:
        """Tokens per slot."""
        return self.fold.ratio

    def at_ratio(self: SystemT, ratio: int) -> SystemT:
        """At another ratio, with the same window."""
        return self.changed(ratio=ratio, ratios=(ratio,))

    def unfolding(self: SystemT, tokens: int) -> SystemT:
        """Reading cited text again before the answer."""
        return self.changed(unfold=tokens)

    def effective_ratio(self, tokens: int) -> float:
        """Wrappers included."""
        return tokens / self.fold.decoder_positions(tokens)

    def prepare(self, backbone: Backbone) -> None:
        """The tokens around slots, and the head that the settings ask for."""
        for ratio in self.train.ratios:  # an impossible one is refused before anything is trained
            self.changed(ratio=ratio)
        if START not in backbone.tokenizer.get_vocab():
            add_special_tokens(backbone, self.tokens)
        add_head(backbone, self.fold)

    @classmethod
    def read_head(cls, tensors: Mapping[str, Tensor]) -> nn.Module:
        """The projection, with the pooling before it."""
        return read_head(tensors)

    def record(self, previous: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that folding fixes, and in place of one ratio all that were trained."""
        settings = asdict(self.fold)
        del settings["ratio"]
        return settings | {"ratios": sorted({*previous.get("ratios", ()), *self.train.ratios})}

    @classmethod
    def trained_settings(cls, record: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a model folder, with one of its ratios."""
        settings = {name: value for name, value in record.items() if name != "ratios"}
        ratios = cls.trained_ratios(record)
        if ratios:
            settings["ratio"] = DEFAULT_RATIO if DEFAULT_RATIO in ratios else max(ratios)
        return settings

    def trained_at(self, record: Mapping[str, Any]) -> bool:
        """Whether its ratio is among those that were trained."""
        ratios = self.trained_ratios(record)
        return not ratios or self.fold.ratio in ratios

    @classmethod
    def trained_ratios(cls, record: Mapping[str, Any]) -> tuple[int, ...]:
        """All that a mixture drew from."""
        return tuple(record.get("ratios", ()))

    def draw(self: PooledT, rng: Random, seed: int | None) -> PooledT:
        """With the ratio, the gap and the layout of one batch; in validation slots are laid out as in use."""
        ratio, gap = rng.choice(self.train.ratios), _gap(rng, self.train.max_gap)
        randomised = seed is not None and self.fold.positions == "randomised"
        layout = 1 + seed % SEEDS if seed is not None and randomised else 0
        return self.changed(ratio=ratio, gap=gap, draw=layout)

    def costliest(self: PooledT) -> PooledT:
        """At the lowest of its ratios."""
        return self.changed(ratio=min(self.train.ratios))

    def footprint(self, tokens: float) -> Footprint:
        """Every token is encoded once, in windows; the decoder sees the slots and what wraps them."""
        count, fold = round(tokens), self.fold
        windows = Pass(-(-count // fold.window_tokens), fold.window_tokens, fold.mask == "causal")
        positions = tokens * fold.decoder_positions(count) / count if count else 0.0
        return Footprint(positions, encoded=tokens, slots=fold.slots(count), passes=windows)

    def parameters(self, hidden_size: int) -> dict[str, int]:
        """The projection of a model that encodes for itself, mean-pooled."""
        return {f"heads.{HEAD}.weight": hidden_size**2}

    @torch.no_grad()
    def encode_only(self, tokens: Sequence[int], backbone: Backbone) -> None:
        """The model that encodes, without its head, over the same windows in the same passes (causal)."""
        encoder, window = backbone.compressor, self.fold.window_tokens
        embeddings = encoder.model.get_input_embeddings()
        for start in range(0, len(tokens), BATCH_TOKENS):
            batch = tokens[start : start + BATCH_TOKENS]
            windows = [batch[first : first + window] for first in group_starts(len(batch), window)]
            windows = [each for each in windows if len(each) == window] or windows
            for some in passes(encoder, windows, self.fold.ratio, window):
                encoder.hidden(embeddings(torch.tensor(some, device=encoder.device)))

    def layouts(self: SystemT) -> dict[str, SystemT]:
        """The wrappers that a memory may have: the cheap one and the paper's."""
        return {"span": self.changed(wrapper="span"), "slot": self.changed(wrapper="slot")}


def _gap(rng: Random, most: int) -> int:
    """None in half of the batches, else up to `most`, every order of magnitude as often."""
    far = rng.random() < 0.5
    return round(most ** rng.random()) if most and far else 0
