"""The slots of a block: keys before rotation and values of one position at all layers, as one row of numbers.

A block has slots [n, d] with d = layers x 2 x heads x size.  For reading, they become a prefix of keys and values after
those of the beginning of the prompt, which is not compressed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memfold.backbone.model import Backbone
from memfold.core.system import Prefix
from memfold.systems.kvbank.rotation import Rotation, run
from memfold.systems.kvbank.settings import PositionRule

Layers = list[tuple[Tensor, Tensor]]  # keys and values [heads, n, size] of each layer


@dataclass(frozen=True)
class Shape:
    """The shape of the keys of a model."""

    layers: int
    heads: int
    size: int

    @property
    def values(self) -> int:
        """Number of values of a slot."""
        return self.parts * self.size

    @property
    def parts(self) -> int:
        """Number of keys and values of a slot: one of each for every head and layer."""
        return self.layers * 2 * self.heads


def shape_of(backbone: Backbone) -> Shape:
    """Return the shape of the keys of a model."""
    return Shape(*backbone.key_shape)


def to_slots(layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return slots [n, d] of keys and values [heads, n, size] per layer."""
    stacked = torch.stack([torch.stack(pair) for pair in layers])  # [layers, 2, heads, n, size]
    return stacked.permute(3, 0, 1, 2, 4).flatten(1)


def from_slots(slots: Tensor, shape: Shape) -> Layers:
    """Return the keys and values [heads, n, size] per layer of slots [n, d]."""
    parts = slots.view(len(slots), shape.layers, 2, shape.heads, shape.size).permute(1, 2, 3, 0, 4)
    return [(layer[0], layer[1]) for layer in parts]


@torch.no_grad()
def opening(backbone: Backbone, tokens: Sequence[int]) -> Prefix:
    """Return the keys and values of the beginning of a prompt, at positions 0, 1, 2, ..."""
    ids = torch.tensor([list(tokens)], device=backbone.device)
    positions = torch.arange(len(tokens), device=backbone.device)
    layers = run(backbone, backbone.model.get_input_embeddings()(ids), positions)
    return Prefix(tuple((keys[0], values[0]) for keys, values in layers))


def prefix_of(
    slots: Tensor, first: Prefix | None, rotation: Rotation, rule: PositionRule, backbone: Backbone
) -> Prefix:
    """Return the prefix of a block, after the beginning of the prompt if there is one, with keys rotated by a rule."""
    start = 0 if first is None else first.length
    positions = torch.arange(start, start + len(slots), device=backbone.device)
    layers = from_slots(slots.to(backbone.device, backbone.dtype), shape_of(backbone))
    if rule == "slots":
        layers = [(rotation.rotate(keys, positions), values) for keys, values in layers]
    if first is not None:
        pairs = zip(first.layers, layers, strict=True)
        layers = [(torch.cat([k, keys], 1), torch.cat([v, values], 1)) for (k, v), (keys, values) in pairs]
    return Prefix(tuple(layers))
