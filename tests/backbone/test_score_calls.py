"""Log-probabilities and head scores behind prefixes and with adapters equal those of plain sequences, with gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product

import pytest
import torch
from gradients import assert_equal_gradients, gradients, weighted
from rendered_calls import behind, prefix_from
from torch import Tensor, nn

from memfold.backbone.adapters import add_role, is_lora
from memfold.backbone.model import Backbone
from memfold.backbone.score import Scored, Scores, logprobs
from memfold.core.document import Document
from memfold.core.errors import CheckpointError
from memfold.core.model import Model
from memfold.core.system import Rendered
from memfold.core.types import Block, BlockRef, Call, HeadScore, Memory, Reply, Step, Text, Trace
from memfold.systems.full.system import Full

TEXTS = ("Ada Brisk was born in Velm in 1893. The code of the vault is KX-41.", "Oskadim lies on the river Tarn.")
ROLES = ("first", "second")
CHUNK = 8

Groups = list[tuple[Document, list[Trace]]]


class KeyValues(Full):
    """Blocks hold the embeddings of their tokens; calls are read behind the keys and values that these have."""

    def compress(self, documents: Sequence[Document], model: Model, done: int = 0) -> Iterator[Block]:
        for source, about in enumerate(documents):
            tokens = about.tokens or ()
            for index, start in enumerate(range(0, len(tokens), CHUNK)):
                slots = model.weights().embed(tokens[start : start + CHUNK])
                yield Block(index, source, start, start + len(slots), 0, 0, slots)

    def render(self, memory: Memory, call: Call, model: Model) -> Rendered:
        backbone = model.weights()
        blocks = tuple(part.index for part in call.parts if isinstance(part, BlockRef))
        slots = [memory.blocks[index].slots for index in blocks]
        embeddings = torch.cat([each for each in slots if each is not None])
        prefix = memory.cached(blocks, lambda: prefix_from(backbone, embeddings))
        pieces = [backbone.encode(part.text) if isinstance(part, Text) else [] for part in call.parts]
        rendered = behind(prefix, [token for piece in pieces for token in piece])
        return replace(rendered, lengths=tuple(map(len, pieces)), adapter=call.adapter)


def memory_traces(backbone: Backbone, blocks: int) -> list[Trace]:
    """Traces over so many blocks: replies and head scores behind all blocks, or behind the first."""
    everything = tuple(BlockRef("", index) for index in range(blocks))
    traces = []
    for question, reply, read in ((" Where?", " Velm", everything), (" Which code is it?", " KX", everything[:1])):
        parts = (*read, Text(question))
        steps = (
            Step(Call("gate", parts, HeadScore("gate")), Reply(score=1.0)),
            Step(Call("gate", (*read, Text("?")), HeadScore("gate"), trained=False), Reply(score=0.0)),
            Step(Call("answer", parts), Reply(tokens=tuple(backbone.encode(reply)))),
        )
        traces.append(Trace(question, "full", steps=steps))
    traces.append(Trace("", "full", steps=(Step(Call("answer", (*everything, Text(" So?"))), Reply(tokens=(7,))),)))
    return traces


@pytest.fixture
def with_gate(any_backbone: Backbone) -> Backbone:
    torch.manual_seed(3)
    gate = nn.Linear(any_backbone.hidden_size, 1)
    return replace(any_backbone, heads=nn.ModuleDict({"gate": gate}))


def behind_groups(backbone: Backbone) -> Groups:
    """Two documents of different lengths, so that prefixes have four lengths."""
    groups = []
    for text in TEXTS:
        about = Document(text[:6], tokens=tuple(backbone.encode(text)))
        groups.append((about, memory_traces(backbone, block_count(about))))
    return groups


def block_count(about: Document) -> int:
    return -(-len(about.tokens or ()) // CHUNK)


def read_step(backbone: Backbone, about: Document, step: Step) -> Tensor:
    """The numbers of a step, from one plain pass over the document's tokens and the call's."""
    tokens: list[int] = []
    for part in step.call.parts:
        if isinstance(part, BlockRef):
            tokens += (about.tokens or ())[CHUNK * part.index : CHUNK * part.index + CHUNK]
        else:
            tokens += backbone.encode(part.text)
    reply = step.reply.tokens
    with backbone.adapter(step.call.adapter):
        embeddings = backbone.embed([*tokens, *reply])[None]
        hidden = backbone.model.base_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state[0]
    if isinstance(step.call.wants, HeadScore):
        score: Tensor = backbone.heads[step.call.wants.head](hidden[-1])
        return score
    table = backbone.logits(hidden[len(tokens) - 1 : -1]).log_softmax(-1)
    return table[torch.arange(len(reply)), torch.tensor(reply)]


def all_plainly(backbone: Backbone, groups: Groups) -> tuple[Tensor, Tensor]:
    """Log-probabilities and head scores of all trained steps, in order."""
    steps = [(about, step) for about, traces in groups for trace in traces for step in trace.steps if step.call.trained]
    scored = [pair for pair in steps if isinstance(pair[1].call.wants, HeadScore)]
    written = [pair for pair in steps if not isinstance(pair[1].call.wants, HeadScore)]
    logs, scores = ([read_step(backbone, *pair) for pair in pairs] for pairs in (written, scored))
    return torch.cat(logs), torch.cat(scores)


def head_scores(scores: Scores) -> Tensor:
    return torch.stack([output.score for output in scores.outputs])


@torch.no_grad()
@pytest.mark.parametrize("row_positions", [0, 1000])
def test_calls_behind_prefixes_equal_plain_sequences(with_gate: Backbone, row_positions: int) -> None:
    system, groups = KeyValues(), behind_groups(with_gate)
    scores = logprobs(with_gate, system, groups, row_positions=row_positions)
    values, gates = all_plainly(with_gate, groups)
    torch.testing.assert_close(scores.logprobs, values, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(head_scores(scores), gates, atol=2e-5, rtol=1e-5)
    steps = [(trace, step) for _, traces in groups for trace in traces for step in trace.steps if step.call.trained]
    wanted = [pair for pair in steps if isinstance(pair[1].call.wants, HeadScore)]
    assert [(output.trace, output.step) for output in scores.outputs] == wanted
    assert [call.purpose for call in scores.calls] == ["answer"] * 6
    (batch,) = scores.batches
    assert len(set(batch.prefixes)) == len(batch.prefixes) == 4, "calls behind the same blocks share a prefix and a row"
    folded: list[Scored] = []
    for about, traces in groups:
        blocks = list(system.compress([about], with_gate))
        folded.append((Memory(about.source, "full", {}, "", (about.source,), blocks), traces))
    torch.testing.assert_close(logprobs(with_gate, system, folded).logprobs, values, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_hidden_states_are_those_that_tokens_were_predicted_from(with_gate: Backbone) -> None:
    scores = logprobs(with_gate, KeyValues(), behind_groups(with_gate))
    tokens = torch.tensor(
        [
            token
            for _, traces in behind_groups(with_gate)
            for trace in traces
            for step in trace.steps
            for token in step.reply.tokens
        ]
    )
    assert scores.hidden.shape == (len(tokens), with_gate.hidden_size)
    table = with_gate.logits(scores.hidden).log_softmax(-1)
    torch.testing.assert_close(table[torch.arange(len(tokens)), tokens], scores.logprobs, atol=1e-5, rtol=1e-5)
    assert torch.equal(table.argmax(1) == tokens, scores.correct)


@torch.no_grad()
def test_traces_without_replies_have_outputs_alone(with_gate: Backbone) -> None:
    about, traces = behind_groups(with_gate)[0]
    gates = [replace(trace, steps=trace.steps[:1]) for trace in traces[:2]]
    scores = logprobs(with_gate, KeyValues(), [(about, gates)])
    expected = torch.cat([read_step(with_gate, about, trace.steps[0]) for trace in gates])
    torch.testing.assert_close(head_scores(scores), expected, atol=2e-5, rtol=1e-5)
    assert (scores.calls, scores.logprobs.shape, scores.hidden.shape) == ((), (0,), (0, with_gate.hidden_size))


def loss_of(values: Tensor, scores: Tensor) -> Tensor:
    return weighted(torch.cat([values, scores]))


def test_gradient_through_prefixes_and_heads_in_two_passes_equals_that_in_one(with_gate: Backbone) -> None:
    groups = behind_groups(with_gate)

    def in_two() -> None:
        scores = logprobs(with_gate, KeyValues(), groups)
        assert len(scores.slots) == sum(block_count(about) for about, _ in groups)
        scores.backward(loss_of(scores.logprobs, head_scores(scores)))
        assert all(leaf.grad is not None for _, leaf in scores.slots)

    def in_one() -> None:
        loss_of(*all_plainly(with_gate, groups)).backward()

    two, one = gradients(with_gate, in_two), gradients(with_gate, in_one)
    assert one.keys() == dict(with_gate.parameters()).keys()
    assert_equal_gradients(two, one, 1e-4)


@pytest.fixture(scope="module")
def with_roles(new_backbone: Callable[..., Backbone]) -> Backbone:
    """Two adapters on different modules that change what is said, and a gate."""
    backbone = new_backbone()
    for seed, (role, targets) in enumerate(zip(ROLES, (("q_proj", "v_proj"), ("v_proj", "down_proj")), strict=True)):
        add_role(backbone, role, 4, 8.0, targets, seed)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, weight in backbone.model.named_parameters():
            if is_lora(name):
                weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    backbone.heads["gate"] = nn.Linear(backbone.hidden_size, 1)
    return backbone


def adapted_groups(backbone: Backbone) -> Groups:
    """Calls of all adapters in turn, about no document."""
    groups = []
    for question in ("Where was Ada born?", "Who?"):
        traces = []
        for adapter in (ROLES[1], None, ROLES[0]):
            parts = (Text(question),)
            steps = (
                Step(Call("gate", parts, HeadScore("gate"), adapter), Reply(score=1.0)),
                Step(Call("answer", parts, adapter=adapter), Reply(tokens=tuple(backbone.encode(" Velm.")))),
            )
            traces.append(Trace(question, "full", steps=steps))
        groups.append((Document(question, tokens=()), traces))
    return groups


@torch.no_grad()
def test_each_call_is_scored_with_its_adapter(with_roles: Backbone) -> None:
    groups = adapted_groups(with_roles)
    scores = logprobs(with_roles, Full(), groups)
    assert len(scores.batches) == 3, "one for each adapter"
    values, gates = all_plainly(with_roles, groups)
    torch.testing.assert_close(scores.logprobs, values, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(head_scores(scores), gates, atol=1e-5, rtol=1e-5)
    assert len(set(gates.tolist())) == 6, "adapters change the states"
    assert [(call.group, call.trace) for call in scores.calls] == list(product(range(2), range(3)))
    assert with_roles.active_role is None


def test_gradient_reaches_the_adapters_of_all_calls(with_roles: Backbone) -> None:
    groups = adapted_groups(with_roles)

    def packed() -> None:
        scores = logprobs(with_roles, Full(), groups)
        scores.backward(loss_of(scores.logprobs, head_scores(scores)))

    def separately() -> None:
        loss_of(*all_plainly(with_roles, groups)).backward()

    together, apart = gradients(with_roles, packed), gradients(with_roles, separately)
    assert apart.keys() >= {name for name, _ in with_roles.parameters() if is_lora(name)}
    assert_equal_gradients(together, apart, 1e-4)


@pytest.mark.parametrize("role", ROLES)
def test_gradient_of_a_call_reaches_no_other_adapter(with_roles: Backbone, role: str) -> None:
    groups: list[Scored] = [
        (about, [trace for trace in traces if trace.steps[0].call.adapter == role])
        for about, traces in adapted_groups(with_roles)
    ]

    def backward() -> None:
        scores = logprobs(with_roles, Full(), groups)
        scores.backward(-scores.logprobs.sum())

    reached = {name for name in gradients(with_roles, backward) if is_lora(name)}
    assert reached == {name for name, _ in with_roles.parameters() if is_lora(name) and f".{role}." in name}


def test_an_unknown_head_is_refused_by_name(with_roles: Backbone) -> None:
    step = Step(Call("gate", (Text("?"),), HeadScore("gote")), Reply(score=1.0))
    scored: list[Scored] = [(Document("none", tokens=()), [Trace("", "full", steps=(step,))])]
    with pytest.raises(CheckpointError, match="model 'qwen3' has no head 'gote'; train it for this system first"):
        logprobs(with_roles, Full(), scored)
    adapted = Step(replace(step.call, adapter="third"), step.reply)
    scored = [(Document("none", tokens=()), [Trace("", "full", steps=(adapted,))])]
    with pytest.raises(CheckpointError, match="has no adapter 'third'; its adapters: first, second; train it first"):
        logprobs(with_roles, Full(), scored)
    assert with_roles.active_role is None
