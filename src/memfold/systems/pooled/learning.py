"""How pooled memory is trained: what a model folder says of it, what a batch draws, what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from random import Random
from typing import Any

import torch

from memfold.backbone.model import Backbone
from memfold.core.system import Footprint, Pass
from memfold.systems.pooled.encoder import BATCH_TOKENS, group_starts, passes
from memfold.systems.pooled.head import HEAD
from memfold.systems.pooled.settings import PooledFold, PooledTrain

START, END = "<MEM_START>", "<MEM_END>"  # around each slot, or the whole memory
DEFAULT_RATIO = 16  # of a model that was trained at it among others
SEEDS = 1 << 31


def record(fold: PooledFold, train: PooledTrain, previous: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a model folder: those that folding fixes, and in place of one ratio all that were trained."""
    settings = asdict(fold)
    del settings["ratio"]
    return settings | {"ratios": sorted({*previous.get("ratios", ()), *train.ratios})}


def trained_settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a model folder, with one of its ratios."""
    settings = {name: value for name, value in record.items() if name != "ratios"}
    ratios = record.get("ratios", ())
    if ratios:
        settings["ratio"] = DEFAULT_RATIO if DEFAULT_RATIO in ratios else max(ratios)
    return settings


def drawn(fold: PooledFold, train: PooledTrain, rng: Random, seed: int | None) -> dict[str, int]:
    """Ratio, gap and layout of one training batch."""
    ratio, gap = rng.choice(train.ratios), _gap(rng, train.max_gap)
    layout = 1 + seed % SEEDS if seed is not None and fold.positions == "randomised" else 0
    return {"ratio": ratio, "gap": gap, "draw": layout}


def _gap(rng: Random, most: int) -> int:
    """None in half of the batches, else up to `most`, every order of magnitude as often."""
    far = rng.random() < 0.5
    return round(most ** rng.random()) if most and far else 0


def footprint(fold: PooledFold, tokens: float) -> Footprint:
    """Every token is encoded once, in windows; the decoder sees the slots and what wraps them."""
    count = round(tokens)
    windows = Pass(-(-count // fold.window_tokens), fold.window_tokens, fold.mask == "causal")
    positions = tokens * fold.decoder_positions(count) / count if count else 0.0
    return Footprint(positions, encoded=tokens, slots=fold.slots(count), passes=windows)


def parameters(hidden_size: int) -> dict[str, int]:
    """The projection of a model that encodes for itself, mean-pooled."""
    return {f"heads.{HEAD}.weight": hidden_size**2}


@torch.no_grad()
def encode_only(fold: PooledFold, tokens: Sequence[int], backbone: Backbone) -> None:
    """The model that encodes, without its head, over the same windows in the same passes (causal)."""
    encoder = backbone.compressor
    embeddings, window = encoder.model.get_input_embeddings(), fold.window_tokens
    for start in range(0, len(tokens), BATCH_TOKENS):
        batch = tokens[start : start + BATCH_TOKENS]
        windows = [batch[first : first + window] for first in group_starts(len(batch), window)]
        windows = [each for each in windows if len(each) == window] or windows
        for some in passes(encoder, windows, fold.ratio, window):
            encoder.hidden(embeddings(torch.tensor(some, device=encoder.device)))
