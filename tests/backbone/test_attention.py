from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from memfold.backbone.attention import MOST, most_attended, slot_attention
from memfold.backbone.model import Backbone
from memfold.backbone.policy import LocalPolicy
from memfold.core.document import Document
from memfold.core.policy import Request, complete
from memfold.core.system import SLOT, Rendered
from memfold.core.types import BlockRef, Call, Generate, Memory, Passage, Reply, SamplingParams, Text
from memfold.systems.full.system import Full
from memfold.systems.pooled.settings import PooledFold
from memfold.systems.pooled.system import Pooled

TEXT = "Ada Brisk was born in Velm in 1893. She wrote the Long Ledger. The code of the vault is KX-41."


@pytest.fixture
def system() -> Pooled:
    return Pooled(PooledFold(ratio=4, window=0, mask="causal", chunk=16))


@torch.no_grad()
def folded(system: Pooled, backbone: Backbone) -> Memory:
    blocks = list(system.compress([Document("a.txt", TEXT)], backbone))
    return Memory("a", "pooled", system.settings, "", ("a.txt",), blocks)


def asked(
    system: Pooled, memory: Memory, backbone: Backbone, wants: Generate | None = None
) -> tuple[Call, Rendered, Reply]:
    """A call over all blocks but the first, and what the model says to it."""
    read = [BlockRef(memory.name, block.index) for block in memory.blocks[1:]]
    call = Call("answer", (Text(""), *read, Text("\nWho?\n")), wants or Generate(SamplingParams(max_tokens=7)))
    (reply,) = complete(LocalPolicy(backbone), [Request(system, memory, call)])
    return call, system.render(memory, call, backbone), reply


def passages(
    system: Pooled, memory: Memory, call: Call, rendered: Rendered, reply: Reply, backbone: Backbone
) -> list[Passage]:
    """What stands behind the slots that a reply attended to most."""
    attended = most_attended(backbone, rendered, reply)
    return [replace(system.passage(memory, call, slot, backbone), weight=weight) for slot, weight in attended]


@torch.no_grad()
def test_the_weights_are_those_of_one_forward_pass_over_everything(system: Pooled, any_backbone: Backbone) -> None:
    memory = folded(system, any_backbone)
    _, rendered, reply = asked(system, memory, any_backbone)
    tokens = torch.tensor([[*rendered.tokens, *reply.tokens]])
    positions = [
        *rendered.positions,
        *range(rendered.positions[-1] + 1, rendered.positions[-1] + 1 + len(reply.tokens)),
    ]
    embeddings = any_backbone.embed(tokens[0].clamp(min=0).tolist())
    assert rendered.slots is not None
    embeddings[tokens[0] == SLOT] = rendered.slots
    length = tokens.shape[1]
    mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]
    any_backbone.model.set_attn_implementation("eager")
    try:
        output = any_backbone.model.base_model(
            inputs_embeds=embeddings[None],
            position_ids=torch.tensor([positions]),
            attention_mask=mask,
            output_attentions=True,
            use_cache=False,
        )
    finally:
        any_backbone.model.set_attn_implementation("sdpa")
    upper = output.attentions[1][0].mean(0)  # the second of two layers
    expected = upper[len(rendered.tokens) :].mean(0)[tokens[0] == SLOT]
    torch.testing.assert_close(slot_attention(any_backbone, rendered, reply), expected, atol=1e-5, rtol=1e-4)


def test_the_most_attended_slots_are_named_by_their_text(system: Pooled, backbone: Backbone) -> None:
    memory = folded(system, backbone)
    call, rendered, reply = asked(system, memory, backbone)
    weights = slot_attention(backbone, rendered, reply)
    starts = [
        start for block in memory.blocks[1:] for start in range(block.token_start, block.token_end, system.fold.ratio)
    ]
    assert len(starts) == sum(block.slot_count for block in memory.blocks[1:])
    spans = backbone.tokenize(TEXT)[1]
    attended = passages(system, memory, call, rendered, reply, backbone)
    assert len(attended) == MOST < len(starts)
    for passage, index in zip(attended, weights.argsort(descending=True).tolist(), strict=False):
        group = spans[starts[index] : starts[index] + 4]
        assert (passage.source, passage.span.start, passage.span.end) == (0, group[0][0], group[-1][1])
        assert passage.weight == pytest.approx(float(weights[index]))
    assert [passage.weight for passage in attended] == sorted((p.weight for p in attended), reverse=True)


def test_without_text_a_passage_is_in_proportion(system: Pooled, backbone: Backbone) -> None:
    memory = folded(system, backbone)
    memory.blocks = [replace(block, text=None) for block in memory.blocks]
    call, rendered, reply = asked(system, memory, backbone)
    order = slot_attention(backbone, rendered, reply).argsort(descending=True).tolist()
    owners = [(block, number) for block in memory.blocks[1:] for number in range(block.slot_count)]
    for passage, index in zip(passages(system, memory, call, rendered, reply, backbone), order, strict=False):
        block, number = owners[index]
        size = block.char_end - block.char_start
        last = min(4 * number + 4, block.token_count)
        assert passage.span.start == block.char_start + size * 4 * number // block.token_count
        assert passage.span.end == block.char_start + size * last // block.token_count


def test_a_policy_adds_attention_when_a_call_wants_it(system: Pooled, backbone: Backbone) -> None:
    memory = folded(system, backbone)
    call, rendered, reply = asked(system, memory, backbone)
    _, _, attentive = asked(system, memory, backbone, Generate(call.sampling, attention=True))
    assert reply.attention == ()
    expected = tuple(passages(system, memory, call, rendered, reply, backbone))
    assert len(expected) == MOST
    assert attentive == replace(reply, attention=expected)


def test_nothing_is_attended_without_slots_or_without_a_reply(system: Pooled, backbone: Backbone) -> None:
    memory = folded(system, backbone)
    wants = Generate(SamplingParams(max_tokens=7), attention=True)
    call = Call("answer", (*[BlockRef("a", block.index) for block in memory.blocks], Text("\nWho?\n")), wants)
    (of_text,) = complete(LocalPolicy(backbone), [Request(Full(), memory, call)])
    assert (of_text.attention, len(of_text.tokens)) == ((), 7)
    execution = LocalPolicy(backbone, batch_positions=1).start()  # room for one call at a time
    written, waiting = Request(system, memory, call), Request(system, memory, call)
    execution.submit(written)
    execution.submit(waiting)
    assert execution.step() == []
    execution.cancel(waiting)
    ((request, cancelled),) = execution.step()
    assert request is waiting
    assert isinstance(cancelled, Reply)
    assert (cancelled.finish, cancelled.tokens, cancelled.attention) == ("cancelled", (), ())
