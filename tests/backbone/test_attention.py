from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from memfold.backbone.attention import MOST, reads, slot_attention
from memfold.backbone.model import Backbone
from memfold.backbone.policy import LocalPolicy
from memfold.core.document import Document
from memfold.core.system import SLOT, Rendered
from memfold.core.types import BlockRef, Call, Memory, Reply, SamplingParams, Text
from memfold.systems.pooled.system import Pooled

TEXT = "Ada Brisk was born in Velm in 1893. She wrote the Long Ledger. The code of the vault is KX-41."


@pytest.fixture
def system() -> Pooled:
    return Pooled(ratio=4, window=0, mask="causal", chunk=16)


@torch.no_grad()
def folded(system: Pooled, backbone: Backbone) -> Memory:
    blocks = list(system.compress([Document("a.txt", TEXT)], backbone))
    return Memory("a", "pooled", system.settings, "", ("a.txt",), blocks)


def asked(system: Pooled, memory: Memory, backbone: Backbone) -> tuple[Call, Rendered, Reply]:
    """A call over all blocks but the first, and what the model says to it."""
    read = [BlockRef(memory.name, block.index) for block in memory.blocks[1:]]
    call = Call("answer", (Text(""), *read, Text("\nWho?\n")), SamplingParams(max_tokens=7))
    (reply,) = LocalPolicy(backbone).generate([(system, memory, call)])
    assert isinstance(reply, Reply)
    return call, system.render(memory, call, backbone), reply


@torch.no_grad()
def test_the_weights_are_those_of_one_forward_pass_over_everything(system: Pooled, any_backbone: Backbone) -> None:
    memory = folded(system, any_backbone)
    _, inputs, reply = asked(system, memory, any_backbone)
    tokens = torch.tensor([[*inputs.tokens, *reply.tokens]])
    positions = [*inputs.positions, *range(inputs.positions[-1] + 1, inputs.positions[-1] + 1 + len(reply.tokens))]
    embeddings = any_backbone.embed(tokens[0].clamp(min=0).tolist())
    assert inputs.slots is not None
    embeddings[tokens[0] == SLOT] = inputs.slots
    length = tokens.shape[1]
    mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]
    any_backbone.model.set_attn_implementation("eager")
    try:
        output = any_backbone.model.base_model(
            inputs_embeds=embeddings[None], position_ids=torch.tensor([positions]), attention_mask=mask,
            output_attentions=True, use_cache=False,
        )  # fmt: skip
    finally:
        any_backbone.model.set_attn_implementation("sdpa")
    upper = output.attentions[1][0].mean(0)  # the second of two layers
    expected = upper[len(inputs.tokens) :].mean(0)[tokens[0] == SLOT]
    torch.testing.assert_close(slot_attention(any_backbone, inputs, reply), expected, atol=1e-5, rtol=1e-4)


def test_the_most_attended_slots_are_named_by_their_text(system: Pooled, backbone: Backbone) -> None:
    memory = folded(system, backbone)
    call, inputs, reply = asked(system, memory, backbone)
    weights = slot_attention(backbone, inputs, reply)
    starts = [start for block in memory.blocks[1:] for start in block.starts]
    spans = backbone.tokenize(TEXT)[1]
    found = reads(backbone, memory, call, inputs, reply)
    assert len(found) == MOST < len(starts)
    for read, index in zip(found, weights.argsort(descending=True).tolist(), strict=False):
        group = spans[starts[index] : starts[index] + 4]
        assert (read.source, read.start, read.end) == (0, group[0][0], group[-1][1])
        assert read.weight == pytest.approx(float(weights[index]))
    assert [read.weight for read in found] == sorted((read.weight for read in found), reverse=True)


def test_without_text_the_place_is_in_proportion(system: Pooled, backbone: Backbone) -> None:
    memory = folded(system, backbone)
    memory.blocks = [replace(block, text=None) for block in memory.blocks]
    call, inputs, reply = asked(system, memory, backbone)
    order = slot_attention(backbone, inputs, reply).argsort(descending=True).tolist()
    owners = [(block, number) for block in memory.blocks[1:] for number in range(len(block.starts))]
    for read, index in zip(reads(backbone, memory, call, inputs, reply), order, strict=False):
        block, number = owners[index]
        size = block.char_end - block.char_start
        last = min(4 * number + 4, block.token_count)
        assert read.start == block.char_start + size * 4 * number // block.token_count
        assert read.end == block.char_start + size * last // block.token_count


def test_a_policy_adds_reads_when_a_call_asks_for_them(system: Pooled, backbone: Backbone) -> None:
    memory = folded(system, backbone)
    call, inputs, reply = asked(system, memory, backbone)
    wanted = replace(call, limits=replace(call.limits, reads=True))
    (with_reads,) = LocalPolicy(backbone).generate([(system, memory, wanted)])
    assert reply.reads == ()
    assert with_reads == replace(reply, reads=reads(backbone, memory, call, inputs, reply))


def test_nothing_is_read_without_slots_or_without_a_reply(system: Pooled, backbone: Backbone) -> None:
    memory = folded(system, backbone)
    call, inputs, reply = asked(system, memory, backbone)
    assert reads(backbone, memory, call, replace(inputs, slots=None), reply) == ()
    assert reads(backbone, memory, call, inputs, Reply(finish="cancelled")) == ()
