"""Compressors without training: of the keys and values of a chunk, they keep those of the tokens that matter most.

The choice is made per layer and key/value head, independent of any question.  Each function scores the tokens of a
chunk, and names the publication that it follows.  `recent` and `random` are controls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from memfold.backbone.attention import eager_attention
from memfold.backbone.model import Backbone
from memfold.systems.kvbank.blocks import Layers, to_slots
from memfold.systems.kvbank.rotation import Rotation
from memfold.systems.kvbank.settings import KvbankFold

QUERIES = 256  # queries whose attention weights are held at a time
REPEAT = "\n\nRepeat the text above exactly:\n"
AHEAD = 512  # positions of future queries over which `expected` averages


@dataclass(frozen=True)
class Observed:
    """A chunk after the forward pass of the model.

    `cache` [heads, lead + n, size] per layer has rotated keys and values of the `lead` tokens that begin the prompt and
    of the `tokens` of the chunk.  `states` [lead + n, d] per layer are the inputs of the attention.
    """

    backbone: Backbone
    tokens: Sequence[int]
    lead: int
    cache: Layers
    states: list[Tensor]
    rotation: Rotation


@torch.no_grad()
def select(
    backbone: Backbone, tokens: Sequence[int], before: Sequence[int], fold: KvbankFold, rotation: Rotation
) -> Tensor:
    """Return the slots [n, d] of a chunk; the pairs of a slot come from different tokens in different heads."""
    observed = _observe(backbone, tokens, before, rotation)
    count = fold.slots(len(tokens))
    scores = SCORES[fold.compressor](observed) if count < len(tokens) else None
    lead, positions = observed.lead, torch.arange(observed.lead + len(tokens), device=backbone.device)
    layers: Layers = []
    for number, (keys, values) in enumerate(observed.cache):
        if fold.positions != "original":
            keys = rotation.undo(keys, positions)
        keys, values = keys[:, lead:], values[:, lead:]
        if scores is not None:
            chosen = scores[number].topk(count, dim=1).indices.sort(1).values[..., None]  # in the order of the text
            keys = keys.gather(1, chosen.expand(-1, -1, keys.shape[-1]))
            values = values.gather(1, chosen.expand(-1, -1, values.shape[-1]))
        layers.append((keys, values))
    return to_slots(layers)


def reconstruction(observed: Observed) -> list[Tensor]:
    """KVzip (arXiv 2505.23416): the largest attention that a pair receives while the model repeats the chunk."""
    backbone, lead, count = observed.backbone, observed.lead, len(observed.tokens)
    tokens = [*backbone.encode(REPEAT), *observed.tokens]
    best = [torch.zeros(len(keys), count, device=backbone.device) for keys, _ in observed.cache]
    with eager_attention(backbone):
        for start in range(0, len(tokens), QUERIES):
            cache = DynamicCache([(keys[None], values[None]) for keys, values in observed.cache])
            ids = torch.tensor([tokens[start : start + QUERIES]], device=backbone.device)
            positions = torch.arange(lead + count, lead + count + ids.shape[1], device=backbone.device)
            output: Any = backbone.model.base_model(
                input_ids=ids,
                position_ids=positions[None],
                past_key_values=cache,
                use_cache=True,
                output_attentions=True,
            )
            for layer, weights in enumerate(output.attentions):
                received = weights[0, :, :, lead : lead + count].float().amax(1)  # [query heads, n]
                best[layer] = best[layer].maximum(_per_key_head(received, len(best[layer])).amax(1))
    return best


def expected(observed: Observed) -> list[Tensor]:
    """Expected attention (arXiv 2510.00636): the mean attention of future queries, if these are normally distributed.

    Mean and covariance of the queries before rotation are those of the chunk; the rotation is averaged over the next
    `AHEAD` positions.  A score is the expected weight times the norm of the value.
    """
    backbone, lead = observed.backbone, observed.lead
    start = lead + len(observed.tokens)
    future = torch.arange(start, start + AHEAD, device=backbone.device)
    scores = []
    for layer, (keys, values) in enumerate(observed.cache):
        queries = _queries(backbone, layer, observed.states[layer][lead:])  # [query heads, n, size]
        keys, values = keys[:, lead:].float(), values[:, lead:].float()
        turn = _mean_rotation(observed.rotation, queries, future)  # [size, size]
        mean = queries.mean(1) @ turn.T
        centred = queries - queries.mean(1, keepdim=True)
        covariance = turn @ (centred.transpose(1, 2) @ centred / queries.shape[1]) @ turn.T
        group, size = len(queries) // len(keys), keys.shape[-1]
        per_head = keys.repeat_interleave(group, 0)
        linear = (per_head @ mean[..., None])[..., 0] / math.sqrt(size)
        quadratic = ((per_head @ covariance) * per_head).sum(-1) / (2 * size)
        weights = _per_key_head((linear + quadratic).softmax(-1), len(keys)).mean(1)
        scores.append(weights * values.norm(dim=-1))
    return scores


def norm(observed: Observed) -> list[Tensor]:
    """A simple L2 norm (arXiv 2406.11430): keys of small norm receive much attention, so these are kept."""
    return [-keys[:, observed.lead :].float().norm(dim=-1) for keys, _ in observed.cache]


def recent(observed: Observed) -> list[Tensor]:
    """Control: the last tokens of the chunk."""
    order = torch.arange(len(observed.tokens), device=observed.backbone.device).float()
    return [order.expand(len(keys), -1) for keys, _ in observed.cache]


def random(observed: Observed) -> list[Tensor]:
    """Control: tokens at random, different ones for each layer and head."""
    generator = torch.Generator().manual_seed(sum(observed.tokens))
    device, count = observed.backbone.device, len(observed.tokens)
    return [torch.rand(len(keys), count, generator=generator).to(device) for keys, _ in observed.cache]


SCORES: dict[str, Callable[[Observed], list[Tensor]]] = {
    "reconstruction": reconstruction,
    "expected": expected,
    "norm": norm,
    "recent": recent,
    "random": random,
}


def _observe(backbone: Backbone, tokens: Sequence[int], before: Sequence[int], rotation: Rotation) -> Observed:
    """Run the model over the beginning of the prompt and a chunk."""
    ids = torch.tensor([[*before, *tokens]], device=backbone.device)
    states: list[Tensor] = []
    body: Any = backbone.model.base_model
    hooks = [
        layer.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs: states.append((args[0] if args else kwargs["hidden_states"])[0]),
            with_kwargs=True,
        )
        for layer in body.layers
    ]
    try:
        output = body(input_ids=ids, use_cache=True)
    finally:
        for hook in hooks:
            hook.remove()
    cache = [(layer.keys[0], layer.values[0]) for layer in output.past_key_values.layers]
    return Observed(backbone, tokens, len(before), cache, states, rotation)


def _queries(backbone: Backbone, layer: int, states: Tensor) -> Tensor:
    """Return the queries [query heads, n, size] before rotation of the inputs [n, d] of a layer's attention."""
    body: Any = backbone.model.base_model
    attention = body.layers[layer].self_attn
    queries = attention.q_proj(states).view(len(states), -1, attention.head_dim)
    if getattr(attention, "q_norm", None) is not None:
        queries = attention.q_norm(queries)
    return torch.as_tensor(queries).transpose(0, 1).float()


def _mean_rotation(rotation: Rotation, queries: Tensor, positions: Tensor) -> Tensor:
    """Return the mean over positions of the matrix [size, size] that rotates a query to them."""
    size = queries.shape[-1]
    basis = torch.eye(size, device=queries.device)[:, None].expand(-1, len(positions), -1)  # one head per unit vector
    return rotation.rotate(basis.contiguous(), positions).mean(1).T


def _per_key_head(values: Tensor, heads: int) -> Tensor:
    """Return values [query heads, n] as [heads, query heads per key head, n]."""
    return values.view(heads, -1, values.shape[-1])
