"""Rendered calls for tests: plain tokens, and tokens behind the model's own keys and values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from memfold.backbone.model import Backbone
from memfold.core.system import Prefix, Rendered


def plain(tokens: list[int]) -> Rendered:
    return Rendered(tokens, list(range(len(tokens))), (len(tokens),))


def prefix_from(backbone: Backbone, embeddings: Tensor) -> Prefix:
    """Each layer's keys and values over embeddings [p, d]."""
    cache: Any = DynamicCache()
    backbone.model.base_model(inputs_embeds=embeddings[None], past_key_values=cache, use_cache=True)
    return Prefix(tuple((layer.keys[0], layer.values[0]) for layer in cache.layers))


def prefix_of(backbone: Backbone, tokens: list[int]) -> Prefix:
    """Each layer's keys and values over some tokens."""
    return prefix_from(backbone, backbone.embed(tokens))


def behind(prefix: Prefix, tokens: list[int]) -> Rendered:
    """Tokens at the positions that follow a prefix."""
    positions = list(range(prefix.length, prefix.length + len(tokens)))
    return Rendered(tokens, positions, (len(tokens),), prefix=prefix)


@torch.no_grad()
def after_prefix(backbone: Backbone, before: list[int], rest: list[int]) -> Rendered:
    """The same sequence as `before + rest`, its beginning as keys and values."""
    return behind(prefix_of(backbone, before), rest)
