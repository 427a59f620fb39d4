"""The attention of a reply to the slots of its memory, from which citations are derived.

It is computed after decoding, so that decoding can use fast attention kernels: the prompt is run again to fill a
key/value cache, then the reply is run with attention weights as output.  The system maps slots to passages.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache

from memfold.backbone.model import Backbone
from memfold.backbone.rows import prefix_layers
from memfold.core.system import SLOT, Rendered
from memfold.core.types import Reply

MOST = 6  # slots per reply


@torch.no_grad()
def slot_attention(backbone: Backbone, rendered: Rendered, reply: Reply) -> Tensor:
    """Return the mean attention [n] that the tokens of a reply pay to each slot of the call.

    The mean is over all reply tokens and heads, and over the upper half of the layers.
    """
    embedding = backbone.model.get_input_embeddings()
    tokens = torch.tensor([rendered.tokens], device=backbone.device)
    assert rendered.slots is not None, "the call must have slots"
    embeddings = backbone.embed_rows(tokens, [rendered.slots])
    positions = torch.tensor([rendered.positions], device=backbone.device)
    prefix = prefix_layers([rendered.prefix])
    cache = DynamicCache(prefix) if prefix else DynamicCache()
    backbone.model.base_model(inputs_embeds=embeddings, position_ids=positions, past_key_values=cache, use_cache=True)
    start = rendered.positions[-1] + 1
    reply_positions = torch.arange(start, start + len(reply.tokens), device=backbone.device)[None]
    implementation = backbone.model.config._attn_implementation
    backbone.model.set_attn_implementation("eager")
    try:
        output = backbone.model.base_model(
            inputs_embeds=embedding(torch.tensor([reply.tokens], device=backbone.device)),
            position_ids=reply_positions,
            past_key_values=cache,
            use_cache=True,
            output_attentions=True,
        )
    finally:
        backbone.model.set_attn_implementation(implementation)
    layers = output.attentions[len(output.attentions) // 2 :]
    weights = torch.stack([layer[0].mean((0, 1)) for layer in layers]).mean(0)
    return weights[rendered.length - len(rendered.tokens) : rendered.length][tokens[0] == SLOT]


def most_attended(backbone: Backbone, rendered: Rendered, reply: Reply) -> list[tuple[int, float]]:
    """Return the `MOST` slots with the highest attention, as (index, weight) pairs by descending weight."""
    weights = slot_attention(backbone, rendered, reply)
    return [(index, float(weights[index])) for index in weights.argsort(descending=True)[:MOST].tolist()]
