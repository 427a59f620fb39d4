"""The positions that a model can compute right: its context window, and where its tables of positions end or change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

NO_LIMIT = 1 << 20  # positions of a model that counts none


@dataclass(frozen=True)
class PositionLimit:
    """The number of positions from 0 on that a model computes right, and why no more."""

    count: int
    reason: str


def window_of(config: PreTrainedConfig) -> int:
    """Return the context window of a model; YaRN multiplies the window that the model was trained with."""
    names = ("max_position_embeddings", "max_seq_len", "seq_length", "context_length")
    window = next((int(value) for name in names if (value := getattr(config, name, None))), NO_LIMIT)
    stretched = [
        int(rope["factor"] * rope["original_max_position_embeddings"])
        for rope in _ropes(config)
        if rope.get("rope_type") == "yarn" and rope.get("factor") and rope.get("original_max_position_embeddings")
    ]
    return max([window, *stretched])


def table_change(config: PreTrainedConfig) -> int | None:
    """Return the length of a sequence up to which its rotary table is that of short ones (LongRoPE); None: any."""
    changes = [
        int(rope["original_max_position_embeddings"]) for rope in _ropes(config) if rope.get("rope_type") == "longrope"
    ]
    return min(changes, default=None)


def position_limit(model: PreTrainedModel, body: nn.Module) -> PositionLimit | None:
    """Return the limit of the positions of a model, or None."""
    config = model.config.get_text_config()
    window = window_of(config)
    if any("dynamic" in str(rope.get("rope_type")) for rope in _ropes(config)):
        return PositionLimit(window, "its rotary table changes with every further position")
    tokens = model.get_input_embeddings()
    tables = [module.weight for module in body.modules() if isinstance(module, nn.Embedding) and module is not tokens]
    tables += [buffer for _, buffer in body.named_buffers() if buffer.ndim == 2]
    if any(window <= len(table) <= window + 8 for table in tables):
        return PositionLimit(window, "its table of positions ends there")
    return None


def _ropes(config: PreTrainedConfig) -> list[dict[str, Any]]:
    """Return the settings of the rotary embedding, one set for all layers or one per kind of layer."""
    ropes = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in ropes.values() if isinstance(value, dict)]
    return nested or ([ropes] if ropes else [])
