"""Adapters of roles for reading: merged into copies of the weights that they change, which a call swaps in.

A model that is not trained needs no `peft`, which takes a second to import, and its layers stay plain: a small one
computes up to twice as fast as with separate matrices.  The copies take as much memory as the weights that they
replace, and in 16 bits they would lose much of a small change, so that this is for small models in float32; the
adapters of others stay separate.  Reading them from files is in
`role_files`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LARGEST = 1 << 30  # bytes of the weights of a model


@dataclass(frozen=True)
class Replaced:
    """A weight of the model, and what takes its place while a role is active."""

    weight: Tensor
    own: Tensor
    merged: Tensor


def can_merge(model: nn.Module) -> bool:
    """Return whether the weights of a model are exact, and few enough for a copy of them for each role."""
    weights = list(model.parameters())
    exact = all(weight.dtype == torch.float32 for weight in weights)
    return exact and sum(weight.numel() * weight.element_size() for weight in weights) <= LARGEST


@torch.no_grad()
def replaced(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Replaced:
    """Return a weight [o, i], and the same plus `scale` times `up` [o, r] @ `down` [r, i]."""
    own = weight.data
    change = scale * (up.to(own.device).float() @ down.to(own.device).float())
    return Replaced(weight, own, (own.float() + change).to(own.dtype))


def swap(roles: Mapping[str, Sequence[Replaced]], before: str | None, role: str | None) -> None:
    """Put the weights of a role in the place of those of the role `before`; None is the model itself."""
    for each in roles.get(before or "", ()):
        each.weight.data = each.own
    for each in roles.get(role or "", ()):
        each.weight.data = each.merged
