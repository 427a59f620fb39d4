"""The head of pooled memory, which turns the hidden states of a group into a slot: a pooling, then a projection.

The head of the paper (mean pooling and a linear projection) is a bare `nn.Linear`, stored as one weight.  Any other is
a `Head`.  The kind of a stored head is inferred from its tensors.  A new head starts as the mean, or very close to it,
so that training can continue from a model with a linear projection and a richer head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from memfold.backbone.model import Backbone
from memfold.core.errors import CheckpointError
from memfold.core.registry import text_systems
from memfold.systems.pooled.settings import HEAD, PooledFold, Pooling, Projection

# Standard deviation of initial weights that are small but not zero, since gradients flow through them.
SMALL = 0.02
SEED = 0


class AttentionPooling(nn.Module):
    """Grouped-query attention over the tokens of a group, with learned queries.

    Each query head pools its own share of the channels, and several query heads share a key head.  The values are the
    hidden states themselves, because a projection follows.  Equal weights give the mean.
    """

    def __init__(self, size: int, heads: int, key_heads: int) -> None:
        super().__init__()
        self.heads, self.key_heads = heads, key_heads
        self.query = nn.Parameter(torch.empty(heads, size // heads))
        self.key = nn.Linear(size, key_heads * (size // heads), bias=False)

    def forward(self, states: Tensor, valid: Tensor | None) -> Tensor:
        """Pool hidden states [n, r, d] to [n, d]; `valid` [n, r] is False at padding (None: no padding)."""
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
    """A linear projection with a nonlinear branch: W x + B gelu(A x)."""

    def __init__(self, size: int, slot_size: int, units: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, slot_size, bias=False)
        self.inner = nn.Linear(size, units, bias=False)
        self.outer = nn.Linear(units, slot_size, bias=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Project vectors [n, size] to [n, slot size]."""
        projected: Tensor = self.linear(vectors) + self.outer(nn.functional.gelu(self.inner(vectors)))
        return projected


class NormMlp(nn.Module):
    """A projection of normalised vectors: C gelu(A n(x) + a) + c, with the RMSNorm n (the adapter of LCLM)."""

    def __init__(self, size: int, slot_size: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(size, eps=1e-6)
        self.inner = nn.Linear(size, slot_size)
        self.outer = nn.Linear(slot_size, slot_size)

    def forward(self, vectors: Tensor) -> Tensor:
        """Project vectors [n, size] to [n, slot size]."""
        projected: Tensor = self.outer(nn.functional.gelu(self.inner(self.norm(vectors))))
        return projected


class Head(nn.Module):
    """A head with attention pooling, an MLP projection, or both.

    Its `forward` only projects: the encoder applies `pooling` first.
    """

    def __init__(self, projection: nn.Linear | Mlp | NormMlp, pooling: AttentionPooling | None) -> None:
        super().__init__()
        self.projection = projection
        self.pooling = pooling

    def forward(self, vectors: Tensor) -> Tensor:
        """Project pooled hidden states [n, size] to slots [n, slot size]."""
        slots: Tensor = self.projection(vectors)
        return slots


def add_head(backbone: Backbone, settings: PooledFold | None = None) -> None:
    """Add the head that the settings require to the encoder of a backbone; by default, mean and linear projection.

    A linear projection after mean pooling is extended to a richer head, if that has a linear part.  A head of the right
    kind is left unchanged.

    Raises:
        CheckpointError: if the existing head cannot be converted to the required one.
    """
    settings = settings or PooledFold()
    required = (settings.pooling, settings.projection)
    encoder = backbone.compressor
    existing = dict(encoder.heads.items()).get(HEAD)
    linear = existing if isinstance(existing, nn.Linear) else None
    extended = linear is not None and settings.projection != "norm_mlp" and required != _kind(linear)
    if existing is None or extended:
        head = _new(encoder, backbone.hidden_size, *required, linear)
        encoder.heads[HEAD] = head.to(device=encoder.device, dtype=encoder.dtype)
    check_head(backbone, settings)


def check_head(backbone: Backbone, settings: PooledFold) -> None:
    """Check that the encoder of a backbone has a head of the kind and size that the settings require.

    Raises:
        CheckpointError: if it has none or another one; the message says what the model has and what is required.
    """
    encoder = backbone.compressor
    if HEAD not in encoder.heads:
        raise CheckpointError(
            f"model {backbone.name!r} has no projection for pooled memory; train it for that, or use a --system whose "
            f"memory is text ({', '.join(text_systems())})"
        )
    head, required = encoder.heads[HEAD], (settings.pooling, settings.projection)
    if _kind(head) != required:
        raise CheckpointError(
            f"model {backbone.name!r} has a head with pooling {_kind(head)[0]} and projection {_kind(head)[1]}, but "
            f"the settings require {required[0]} and {required[1]}; use the settings that it was trained with"
        )
    (rows, columns), size, states = _sizes(head), backbone.hidden_size, encoder.hidden_size
    if (rows, columns) != (size, states):
        raise CheckpointError(
            f"model {backbone.name!r} has a projection from size {columns} to {rows}, but needs one from {states} to "
            f"{size}; its files are those of different models"
        )


def read_head(stored: Mapping[str, Tensor]) -> nn.Module:
    """Build the head of a model folder from its tensors by name.

    Raises:
        CheckpointError: for names or shapes that are not those of a head.
    """
    try:
        head = _empty(stored)
        head.load_state_dict(dict(stored))
    except (KeyError, RuntimeError, ValueError, ZeroDivisionError):
        names = ", ".join(sorted(stored))
        raise CheckpointError(f"tensors {names} are not a head of pooled memory; use the model's own file") from None
    return head


def _empty(stored: Mapping[str, Tensor]) -> nn.Module:
    """Create a head of the kind and shape that the stored tensors have."""
    if "weight" in stored:
        return _linear(stored["weight"])
    pooling = None
    if "pooling.query" in stored:
        (heads, width), (key_width, size) = stored["pooling.query"].shape, stored["pooling.key.weight"].shape
        pooling = AttentionPooling(size, heads, key_width // width)
    if "projection.weight" in stored:
        return Head(_linear(stored["projection.weight"]), pooling)
    if "projection.norm.weight" in stored:
        return Head(NormMlp(*reversed(stored["projection.inner.weight"].shape)), pooling)
    (slot_size, size), units = stored["projection.linear.weight"].shape, len(stored["projection.inner.weight"])
    return Head(Mlp(size, slot_size, units), pooling)


def _linear(weight: Tensor) -> nn.Linear:
    return nn.Linear(weight.shape[1], weight.shape[0], bias=False)


def _kind(head: nn.Module) -> tuple[Pooling, Projection]:
    """Return the pooling and projection settings of a head."""
    if not isinstance(head, Head):
        return "mean", "linear"
    kinds: dict[type, Projection] = {nn.Linear: "linear", Mlp: "mlp", NormMlp: "norm_mlp"}
    return "mean" if head.pooling is None else "gqa", kinds[type(head.projection)]


def _sizes(head: nn.Module) -> tuple[int, int]:
    """Return the size of a slot, and that of the hidden states that it is made of."""
    projection = head.projection if isinstance(head, Head) else head
    if isinstance(projection, NormMlp):
        return projection.outer.out_features, projection.inner.in_features
    matrix = projection.linear if isinstance(projection, Mlp) else projection
    assert isinstance(matrix, nn.Linear), "every other projection has a linear part"
    return matrix.out_features, matrix.in_features


def _new(
    encoder: Backbone, slot_size: int, pooling: Pooling, projection: Projection, linear: nn.Linear | None
) -> nn.Module:
    """Create a head around a linear projection, or around a new one; the initial weights are deterministic."""
    generator = torch.Generator().manual_seed(SEED)
    if projection == "norm_mlp":
        return Head(_new_norm_mlp(encoder.hidden_size, slot_size, generator), _pooling(encoder, pooling, generator))
    matrix = linear or _new_matrix(encoder.hidden_size, slot_size, generator)
    if (pooling, projection) == ("mean", "linear"):
        return matrix
    return Head(
        _new_mlp(matrix, generator) if projection == "mlp" else matrix,
        _pooling(encoder, pooling, generator),
    )


def _new_matrix(size: int, slot_size: int, generator: torch.Generator) -> nn.Linear:
    """Create a projection: the identity, or an orthogonal matrix if the two sizes differ."""
    matrix = nn.Linear(size, slot_size, bias=False)
    if size == slot_size:
        nn.init.eye_(matrix.weight)
    else:
        nn.init.orthogonal_(matrix.weight, generator=generator)
    return matrix


def _new_mlp(matrix: nn.Linear, generator: torch.Generator) -> Mlp:
    """Create an MLP around a projection, with twice as many units as the slot size and a small initial contribution."""
    mlp = Mlp(matrix.in_features, matrix.out_features, 2 * matrix.out_features)
    mlp.linear = matrix
    nn.init.normal_(mlp.inner.weight, std=matrix.in_features**-0.5, generator=generator)
    nn.init.normal_(mlp.outer.weight, std=SMALL * mlp.inner.out_features**-0.5, generator=generator)
    return mlp


def _new_norm_mlp(size: int, slot_size: int, generator: torch.Generator) -> NormMlp:
    projection = NormMlp(size, slot_size)
    for matrix in (projection.inner, projection.outer):
        nn.init.normal_(matrix.weight, std=matrix.in_features**-0.5, generator=generator)
        nn.init.zeros_(matrix.bias)
    return projection


def _pooling(encoder: Backbone, kind: Pooling, generator: torch.Generator) -> AttentionPooling | None:
    """Create a pooling with the head counts of the encoder's attention, reduced to divisors of its hidden size; None
    for the mean."""
    if kind == "mean":
        return None
    size, config = encoder.hidden_size, encoder.model.config.get_text_config()
    heads = math.gcd(config.num_attention_heads, size)
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    pooling = AttentionPooling(size, heads, math.gcd(key_heads, heads))
    nn.init.normal_(pooling.query, std=SMALL, generator=generator)
    nn.init.normal_(pooling.key.weight, std=size**-0.5, generator=generator)
    return pooling
