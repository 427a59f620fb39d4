"""The attention of a reply to the slots of its memory, from which citations are derived.

It is computed after decoding, so that decoding can use fast attention kernels: the prompt is run again to fill a
key/value cache, then the reply is run with attention weights as output.  The system maps slots to passages.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from memfold.backbone.cache import growing_cache
from memfold.backbone.model import Backbone
from memfold.core.errors import CallError
from memfold.core.system import SLOT, Rendered
from memfold.core.types import Reply

MOST = 6  # slots per reply


@contextmanager
def eager_attention(backbone: Backbone) -> Iterator[None]:
    """Select the attention implementation that returns weights, inside a `with` block."""
    implementation = backbone.model.config._attn_implementation
    backbone.model.set_attn_implementation("eager")
    try:
        yield
    finally:
        backbone.model.set_attn_implementation(implementation)


@torch.no_grad()
def slot_attention(backbone: Backbone, rendered: Rendered, reply: Reply) -> Tensor:
    """Return the mean attention [n] that the tokens of a reply pay to each slot of the call.

    The mean is over all reply tokens and heads, and over the upper half of the layers with attention.

    Raises:
        CallError: for a model that does not return its attention.
    """
    tokens = torch.tensor([rendered.tokens], device=backbone.device)
    assert rendered.slots is not None, "the call must have slots"
    cache = growing_cache(backbone.model.config)
    for number, (keys, values) in enumerate(backbone.prefix_layers([rendered.prefix])):
        cache.update(keys, values, number)
    positions = torch.tensor([rendered.positions], device=backbone.device)
    backbone.forward(backbone.inputs(tokens, [rendered.slots]), positions, cache=cache)
    start = rendered.positions[-1] + 1
    reply_positions = torch.arange(start, start + len(reply.tokens), device=backbone.device)[None]
    written = torch.tensor([reply.tokens], device=backbone.device)
    with eager_attention(backbone):
        output = backbone.forward(written, reply_positions, cache=cache, output_attentions=True)
    layers = [layer for layer in output.attentions or () if layer is not None]
    if not layers:
        raise CallError("policy", f"model {backbone.name!r} does not return its attention; cite what was recalled")
    weights = torch.stack([layer[0].mean((0, 1)) for layer in layers[len(layers) // 2 :]]).mean(0)
    return weights[rendered.length - len(rendered.tokens) : rendered.length][tokens[0] == SLOT]


def most_attended(backbone: Backbone, rendered: Rendered, reply: Reply) -> list[tuple[int, float]]:
    """Return the `MOST` slots with the highest attention, as (index, weight) pairs by descending weight."""
    weights = slot_attention(backbone, rendered, reply)
    return [(index, float(weights[index])) for index in weights.argsort(descending=True)[:MOST].tolist()]
