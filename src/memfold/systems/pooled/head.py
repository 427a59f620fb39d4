"""The head of pooled memory: from the hidden states of a group to its slot, by a pooling and a projection.

The simplest, the paper's, averages and projects linearly: a bare `nn.Linear`, stored as one weight.  Any other is a
`Head`.  What kind a stored head is follows from its tensors.  New heads begin as the mean (or very close to it), so
that a model with a trained linear projection can go on with a richer head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from memfold.backbone.model import Backbone
from memfold.core.errors import CheckpointError
from memfold.systems.pooled.settings import PooledFold, Pooling, Projection

HEAD = "pooled"
# Spread of the weights that must differ from nothing for a gradient to reach what lies behind them.
SMALL = 0.02
SEED = 0


class AttentionPooling(nn.Module):
    """Grouped-query attention over a group's tokens with learned queries.

    Each query head weighs the tokens for its own share of the channels, by keys that several heads share; the values
    are the hidden states themselves, since a projection follows.  Equal weights give the mean.
    """

    def __init__(self, size: int, heads: int, key_heads: int) -> None:
        super().__init__()
        self.heads, self.key_heads = heads, key_heads
        self.query = nn.Parameter(torch.empty(heads, size // heads))
        self.key = nn.Linear(size, key_heads * (size // heads), bias=False)

    def forward(self, states: Tensor, valid: Tensor | None) -> Tensor:
        """[n, d] from hidden states [n, r, d]; `valid` [n, r] is False at padding (None: there is none)."""
        groups, tokens, size = states.shape
        keys = self.key(states).view(groups, tokens, self.key_heads, -1)
        keys = keys.repeat_interleave(self.heads // self.key_heads, dim=2)
        scores = (keys * self.query).sum(-1).float() / math.sqrt(keys.shape[-1])
        if valid is not None:
            scores = scores.masked_fill(~valid[..., None], -torch.inf)
        weights = scores.softmax(1).to(states.dtype)
        shares = states.view(groups, tokens, self.heads, -1)
        pooled: Tensor = (weights[..., None] * shares).sum(1).reshape(groups, size)
        return pooled


class Mlp(nn.Module):
    """A linear projection with a layer of nonlinear units beside it: W x + B gelu(A x)."""

    def __init__(self, size: int, slot_size: int, units: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, slot_size, bias=False)
        self.inner = nn.Linear(size, units, bias=False)
        self.outer = nn.Linear(units, slot_size, bias=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """[n, slot size] from [n, size]."""
        projected: Tensor = self.linear(vectors) + self.outer(nn.functional.gelu(self.inner(vectors)))
        return projected


class Head(nn.Module):
    """A head that is more than the mean and a matrix.  Called with pooled vectors; the encoder pools before."""

    def __init__(self, projection: nn.Linear | Mlp, pooling: AttentionPooling | None) -> None:
        super().__init__()
        self.projection = projection
        self.pooling = pooling

    def forward(self, vectors: Tensor) -> Tensor:
        """Slots [n, slot size] from pooled hidden states [n, size]."""
        slots: Tensor = self.projection(vectors)
        return slots


def add_head(backbone: Backbone, settings: PooledFold | None = None) -> None:
    """Give what encodes for a backbone the head that the settings (default: mean and linear) ask for.

    A linear projection after the mean grows into the richer head; one of the right kind stays as it is.

    Raises:
        CheckpointError: for a head that is there and cannot become the one asked for.
    """
    settings = settings or PooledFold()
    wanted = (settings.pooling, settings.projection)
    encoder = backbone.compressor
    there = dict(encoder.heads.items()).get(HEAD)
    linear = there if isinstance(there, nn.Linear) else None
    if there is None or (linear is not None and wanted != _kind(linear)):
        head = _new(encoder, backbone.hidden_size, *wanted, linear)
        encoder.heads[HEAD] = head.to(device=encoder.device, dtype=encoder.dtype)
    check_head(backbone, settings)


def check_head(backbone: Backbone, settings: PooledFold) -> None:
    """Refuse a backbone whose encoder has no head for pooled memory, one of another kind, or one for other sizes.

    Raises:
        CheckpointError: naming what the model has and what is asked for.
    """
    encoder = backbone.compressor
    if HEAD not in encoder.heads:
        raise CheckpointError(f"model {backbone.name!r} has no projection for pooled memory; train it first")
    head, wanted = encoder.heads[HEAD], (settings.pooling, settings.projection)
    if _kind(head) != wanted:
        raise CheckpointError(
            f"model {backbone.name!r} has a head of pooling {_kind(head)[0]} and projection {_kind(head)[1]}, the "
            f"settings ask for {wanted[0]} and {wanted[1]}; use the settings that it was trained with"
        )
    matrix = _matrix(head)
    (rows, columns), size, states = matrix.weight.shape, backbone.hidden_size, encoder.hidden_size
    if (rows, columns) != (size, states):
        raise CheckpointError(
            f"model {backbone.name!r} has a projection of {columns} to {rows} numbers for hidden states of "
            f"{states if states == size else f'{states} and slots of {size}'}; its files do not belong together"
        )


def read_head(stored: Mapping[str, Tensor]) -> nn.Module:
    """The head that a model folder holds, from its tensors by name.

    Raises:
        CheckpointError: for names or shapes that no head has.
    """
    try:
        head = _empty(stored)
        head.load_state_dict(dict(stored))
    except (KeyError, RuntimeError, ValueError, ZeroDivisionError):
        names = ", ".join(sorted(stored))
        raise CheckpointError(f"a head of {names} is none of pooled memory; its file does not belong here") from None
    return head


def _empty(stored: Mapping[str, Tensor]) -> nn.Module:
    """A head of the right kind and shape."""
    if "weight" in stored:
        return _linear(stored["weight"])
    pooling = None
    if "pooling.query" in stored:
        (heads, width), (key_width, size) = stored["pooling.query"].shape, stored["pooling.key.weight"].shape
        pooling = AttentionPooling(size, heads, key_width // width)
    if "projection.weight" in stored:
        return Head(_linear(stored["projection.weight"]), pooling)
    (slot_size, size), units = stored["projection.linear.weight"].shape, len(stored["projection.inner.weight"])
    return Head(Mlp(size, slot_size, units), pooling)


def _linear(weight: Tensor) -> nn.Linear:
    return nn.Linear(weight.shape[1], weight.shape[0], bias=False)


def _kind(head: nn.Module) -> tuple[Pooling, Projection]:
    """The settings that a head stands for."""
    if not isinstance(head, Head):
        return "mean", "linear"
    return "mean" if head.pooling is None else "gqa", "mlp" if isinstance(head.projection, Mlp) else "linear"


def _matrix(head: nn.Module) -> nn.Linear:
    """The linear part of the projection."""
    projection = head.projection if isinstance(head, Head) else head
    matrix = projection.linear if isinstance(projection, Mlp) else projection
    assert isinstance(matrix, nn.Linear), "every projection has one"
    return matrix


def _new(
    encoder: Backbone, slot_size: int, pooling: Pooling, projection: Projection, linear: nn.Linear | None
) -> nn.Module:
    """A head of some kind around a linear projection; a new one has the same weights each time."""
    draw = torch.Generator().manual_seed(SEED)
    matrix = linear or _new_matrix(encoder.hidden_size, slot_size, draw)
    if (pooling, projection) == ("mean", "linear"):
        return matrix
    return Head(
        _new_mlp(matrix, draw) if projection == "mlp" else matrix,
        _new_pooling(encoder, draw) if pooling == "gqa" else None,
    )


def _new_matrix(size: int, slot_size: int, draw: torch.Generator) -> nn.Linear:
    """The identity; between two sizes a map that keeps lengths and angles as far as it can."""
    matrix = nn.Linear(size, slot_size, bias=False)
    if size == slot_size:
        nn.init.eye_(matrix.weight)
    else:
        nn.init.orthogonal_(matrix.weight, generator=draw)
    return matrix


def _new_mlp(matrix: nn.Linear, draw: torch.Generator) -> Mlp:
    """As many units as the slot is wide twice; they add little to begin with."""
    mlp = Mlp(matrix.in_features, matrix.out_features, 2 * matrix.out_features)
    mlp.linear = matrix
    nn.init.normal_(mlp.inner.weight, std=matrix.in_features**-0.5, generator=draw)
    nn.init.normal_(mlp.outer.weight, std=SMALL * mlp.inner.out_features**-0.5, generator=draw)
    return mlp


def _new_pooling(encoder: Backbone, draw: torch.Generator) -> AttentionPooling:
    """Heads and shared keys as in the encoder's own attention, where they divide its width."""
    size, config = encoder.hidden_size, encoder.model.config.get_text_config()
    heads = math.gcd(config.num_attention_heads, size)
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    pooling = AttentionPooling(size, heads, math.gcd(key_heads, heads))
    nn.init.normal_(pooling.query, std=SMALL, generator=draw)
    nn.init.normal_(pooling.key.weight, std=size**-0.5, generator=draw)
    return pooling
