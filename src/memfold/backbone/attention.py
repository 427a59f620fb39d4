"""Which slots a reply was read from: the decoder's attention while it wrote the reply.

Run after decoding, so that decoding keeps its fast kernels: the call once more for its keys and values, then the reply
with attention weights put out.  Left out: what a slot stands for, which its system knows.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache

from memfold.backbone.model import Backbone
from memfold.core.system import SLOT, Rendered
from memfold.core.types import Reply

MOST = 6


@torch.no_grad()
def slot_attention(backbone: Backbone, rendered: Rendered, reply: Reply) -> Tensor:
    """Mean attention [n] that the reply's tokens pay to each slot, over the heads of the upper half of the layers."""
    embedding = backbone.model.get_input_embeddings()
    tokens = torch.tensor([rendered.tokens], device=backbone.device)
    assert rendered.slots is not None, "the call has slots"
    embeddings = backbone.embed_rows(tokens, [rendered.slots])
    positions = torch.tensor([rendered.positions], device=backbone.device)
    cache = DynamicCache()
    backbone.model.base_model(inputs_embeds=embeddings, position_ids=positions, past_key_values=cache, use_cache=True)
    start = rendered.positions[-1] + 1
    following = torch.arange(start, start + len(reply.tokens), device=backbone.device)[None]
    backbone.model.set_attn_implementation("eager")
    try:
        output = backbone.model.base_model(
            inputs_embeds=embedding(torch.tensor([reply.tokens], device=backbone.device)),
            position_ids=following,
            past_key_values=cache,
            use_cache=True,
            output_attentions=True,
        )
    finally:
        backbone.model.set_attn_implementation("sdpa")
    layers = output.attentions[len(output.attentions) // 2 :]
    weights = torch.stack([layer[0].mean((0, 1)) for layer in layers]).mean(0)
    return weights[: len(rendered.tokens)][tokens[0] == SLOT]


def most_attended(backbone: Backbone, rendered: Rendered, reply: Reply) -> list[tuple[int, float]]:
    """The `MOST` slots of a call that its reply attended to most with their weights, the highest first."""
    weights = slot_attention(backbone, rendered, reply)
    return [(index, float(weights[index])) for index in weights.argsort(descending=True)[:MOST].tolist()]
