"""Which slots a reply was read from: the decoder's attention while it wrote the reply.

Run after decoding, so that decoding keeps its fast kernels: the call once more for its keys and values, then the reply
with attention weights put out.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache

from memfold.backbone.model import Backbone
from memfold.core.system import SLOT, Inputs
from memfold.core.types import Block, BlockRef, Call, Memory, Read, Reply

MOST = 6
Offsets = list[tuple[int, int]]


@torch.no_grad()
def slot_attention(backbone: Backbone, inputs: Inputs, reply: Reply) -> Tensor:
    """Mean attention [n] that the reply's tokens pay to each slot, over the heads of the upper half of the layers."""
    embedding = backbone.model.get_input_embeddings()
    tokens = torch.tensor([inputs.tokens], device=backbone.device)
    assert inputs.slots is not None, "the call has slots"
    embeddings = backbone.embed_rows(tokens, [inputs.slots])
    positions = torch.tensor([inputs.positions], device=backbone.device)
    cache = DynamicCache()
    backbone.model.base_model(inputs_embeds=embeddings, position_ids=positions, past_key_values=cache, use_cache=True)
    start = inputs.positions[-1] + 1
    following = torch.arange(start, start + len(reply.tokens), device=backbone.device)[None]
    backbone.model.set_attn_implementation("eager")
    try:
        output = backbone.model.base_model(
            inputs_embeds=embedding(torch.tensor([reply.tokens], device=backbone.device)), position_ids=following,
            past_key_values=cache, use_cache=True, output_attentions=True,
        )  # fmt: skip
    finally:
        backbone.model.set_attn_implementation("sdpa")
    layers = output.attentions[len(output.attentions) // 2 :]
    weights = torch.stack([layer[0].mean((0, 1)) for layer in layers]).mean(0)
    return weights[: len(inputs.tokens)][tokens[0] == SLOT]


def reads(backbone: Backbone, memory: Memory, call: Call, inputs: Inputs, reply: Reply) -> tuple[Read, ...]:
    """The `MOST` slots that a reply was read from, the most attended first, as stretches of their documents."""
    if inputs.slots is None or not reply.tokens:
        return ()
    weights = slot_attention(backbone, inputs, reply)
    owners = [
        (memory.blocks[part.index], number)
        for part in call.parts
        if isinstance(part, BlockRef)
        for number in range(len(memory.blocks[part.index].starts))
    ]
    offsets: dict[int, Offsets] = {}
    found = []
    for index in weights.argsort(descending=True)[:MOST].tolist():
        block, number = owners[index]
        start, end = _characters(backbone, block, number, offsets)
        found.append(Read(block.source, start, end, float(weights[index])))
    return tuple(found)


def _characters(backbone: Backbone, block: Block, number: int, cache: dict[int, Offsets]) -> tuple[int, int]:
    """The stretch of text behind one slot: exact where the memory holds its text, else in proportion."""
    first = block.starts[number] - block.token_start
    last = block.starts[number + 1] - block.token_start if number + 1 < len(block.starts) else block.token_count
    text = block.read()
    if text is None:
        size = block.char_end - block.char_start
        return tuple(block.char_start + size * place // block.token_count for place in (first, last))  # type: ignore[return-value]
    if block.index not in cache:
        cache[block.index] = backbone.tokenize(text)[1]
    spans = cache[block.index]
    last = min(last, len(spans))
    return block.char_start + spans[min(first, len(spans) - 1)][0], block.char_start + spans[last - 1][1]
