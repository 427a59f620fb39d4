from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from gradients import assert_equal_gradients, gradients, weighted
from torch import Tensor, nn

from memfold.backbone.architectures import TESTED, Fit
from memfold.backbone.decode import generate
from memfold.backbone.model import Backbone
from memfold.backbone.rows import RowBatch
from memfold.backbone.score import Scored, Scores, logprobs, row_of
from memfold.core.document import Document
from memfold.core.model import Model
from memfold.core.registry import AnySystem
from memfold.core.system import SLOT
from memfold.core.types import (
    Block,
    BlockRef,
    Call,
    Generate,
    Memory,
    Part,
    Reply,
    Sample,
    SamplingParams,
    Step,
    Text,
    Trace,
)
from memfold.systems.full.system import Full, FullTrain
from memfold.systems.pooled.settings import PooledFold
from memfold.systems.pooled.system import Pooled

FIRST = "Ada Brisk was born in Velm in 1893. She wrote the Long Ledger. The code of the vault is KX-41."
SECOND = "Oskadim lies on the river Tarn. Its mayor is Lor Tavenlor, a baker."
QUESTIONS = {
    FIRST: [("Where was Ada born?", "Velm"), ("What is the code?", "KX-41"), ("Who wrote?", "Ada Brisk")],
    SECOND: [("Who is the mayor?", "Lor Tavenlor"), ("Which river?", "Tarn")],
}


def document(backbone: Backbone, text: str) -> Document:
    return Document(text[:6], tokens=tuple(backbone.encode(text)))


def scored_groups(backbone: Backbone, system: AnySystem) -> list[tuple[Document, list[Trace]]]:
    """Two documents with several questions each, in both styles, and a piece of plain text with no document."""
    groups: list[tuple[Document, list[Trace]]] = []
    for text, asked in QUESTIONS.items():
        about = document(backbone, text)
        samples = [Sample("almanac", about, question, (reply,), support=(text[:20],)) for question, reply in asked]
        traces = [
            system.script(sample, backbone, "recall" if number % 2 else "bare") for number, sample in enumerate(samples)
        ]
        groups.append((about, traces))
    if isinstance(system, Full):
        alone = Sample("prose", Document("none", tokens=()), "", target=SECOND)
        groups.append((alone.document, [system.script(alone, backbone, "bare")]))
    return groups


def memory_of(backbone: Backbone, system: AnySystem, about: Document) -> Memory:
    blocks = list(system.compress([about], backbone))
    return Memory(about.source, system.name, system.settings, "", (about.source,), blocks)


def alone(backbone: Backbone, system: AnySystem, memory: Memory, step: Step) -> Tensor:
    """The log-probabilities of one reply, from a plain forward pass of the model over one row."""
    rendered = system.render(memory, step.call, backbone)
    tokens = [*rendered.tokens, *step.reply.tokens]
    count = len(step.reply.tokens)
    positions = [*rendered.positions, *range(rendered.positions[-1] + 1, rendered.positions[-1] + 1 + count)]
    embeddings = backbone.embed([max(token, 0) for token in tokens])
    if rendered.slots is not None:
        rows = list(embeddings)
        slots = iter(rendered.slots)
        embeddings = torch.stack(
            [next(slots) if token == SLOT else row for token, row in zip(tokens, rows, strict=True)]
        )
    causal = torch.ones(len(tokens), len(tokens), dtype=torch.bool).tril()[None, None]
    logits: Tensor = backbone.model(
        inputs_embeds=embeddings[None], position_ids=torch.tensor([positions]), attention_mask=causal, use_cache=False
    ).logits
    table = logits[0, -count - 1 : -1].log_softmax(-1)
    return table[torch.arange(count), torch.tensor(step.reply.tokens)]


def all_alone(backbone: Backbone, system: AnySystem, groups: Sequence[tuple[Document, list[Trace]]]) -> list[Tensor]:
    return [
        alone(backbone, system, memory, step)
        for about, traces in groups
        for memory in [memory_of(backbone, system, about)]
        for trace in traces
        for step in trace.steps
        if step.call.trained
    ]


POOLED = [
    {"ratio": ratio, "wrapper": wrapper, "positions": positions, "window": window, "mask": mask}
    for ratio, wrapper, positions, window, mask in (
        (4, "span", "strided", 0, "causal"),
        (4, "slot", "consecutive", 16, "bidirectional"),
        (1, "none", "consecutive", 0, "causal"),
        (8, "slot", "strided", 16, "causal"),
    )
]


def only_batch(scores: Scores) -> RowBatch:
    (batch,) = scores.batches
    return batch


@torch.no_grad()
@pytest.mark.parametrize("settings", POOLED, ids=str)
def test_packed_rows_of_pooled_equal_separate_rows(any_backbone: Backbone, settings: dict[str, Any]) -> None:
    system = Pooled(PooledFold(chunk=16, **settings))
    groups = scored_groups(any_backbone, system)
    scores = logprobs(any_backbone, system, groups)
    apart = all_alone(any_backbone, system, groups)
    assert [call.count for call in scores.calls] == [len(values) for values in apart]
    torch.testing.assert_close(scores.logprobs, torch.cat(apart), atol=1e-5, rtol=1e-5)
    unpacked = 0
    for about, traces in groups:
        memory = memory_of(any_backbone, system, about)
        steps = [step for trace in traces for step in trace.steps]
        unpacked += sum(len(row_of(system, memory, step.call, step.reply, any_backbone).tokens) for step in steps)
    assert only_batch(scores).tokens.numel() < unpacked, "what is shared is laid down once"


@torch.no_grad()
@pytest.mark.parametrize("read_loss", [True, False])
def test_packed_rows_of_full_equal_separate_rows(any_backbone: Backbone, read_loss: bool) -> None:
    system = Full(train=FullTrain(read_loss=read_loss))
    groups = scored_groups(any_backbone, system)
    scores = logprobs(any_backbone, system, groups)
    torch.testing.assert_close(
        scores.logprobs, torch.cat(all_alone(any_backbone, system, groups)), atol=1e-5, rtol=1e-5
    )
    expected = ["language", "answer"] * 5 if read_loss else ["answer"] * 5
    assert [call.purpose for call in scores.calls] == [*expected, "language"]
    rows = [(call.group, call.trace) for call in scores.calls]
    assert rows == sorted(rows)
    assert {group for group, _ in rows} == {0, 1, 2}


@torch.no_grad()
@pytest.mark.parametrize(
    "system", [Pooled(PooledFold(ratio=4, window=0, mask="causal", chunk=16)), Full()], ids=["pooled", "full"]
)
def test_eager_attention_reads_the_same_positions(new_backbone: Callable[..., Backbone], system: AnySystem) -> None:
    backbone = new_backbone()
    groups = scored_groups(backbone, system)
    expected = logprobs(backbone, system, groups).logprobs
    backbone.model.set_attn_implementation("eager")
    torch.testing.assert_close(logprobs(backbone, system, groups).logprobs, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("system", [Pooled(PooledFold(ratio=4)), Full()], ids=["pooled", "full"])
@pytest.mark.parametrize("row_positions", [60, 10_000])
def test_documents_that_share_a_row_do_not_read_each_other(
    new_backbone: Callable[..., Backbone], system: AnySystem, row_positions: int
) -> None:
    backbone = new_backbone()
    groups = scored_groups(backbone, system) * 2
    apart = logprobs(backbone, system, groups)
    together = logprobs(backbone, system, groups, row_positions=row_positions)
    rows = len(only_batch(together).tokens)
    assert rows == (1 if row_positions == 10_000 else len(only_batch(apart).tokens))
    torch.testing.assert_close(together.logprobs, apart.logprobs, atol=2e-5, rtol=1e-4)
    assert together.calls == apart.calls
    gradients = []
    for scores in (apart, together):
        backbone.model.zero_grad()
        scores.backward(-scores.logprobs.mean())
        gradients.append(backbone.model.get_input_embeddings().weight.grad.clone())
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-3)


@torch.no_grad()
def test_calls_say_whose_the_numbers_are(backbone: Backbone) -> None:
    system = Full()
    groups = scored_groups(backbone, system)
    whole = logprobs(backbone, system, groups)
    for call, values, correct in whole.parts():
        about, traces = groups[call.group]
        parts = logprobs(backbone, system, [(about, [traces[call.trace]])]).parts()
        ((_, same_values, same_correct),) = [part for part in parts if part[0].purpose == call.purpose]
        torch.testing.assert_close(values, same_values, atol=1e-5, rtol=1e-5)
        assert torch.equal(correct, same_correct)


@torch.no_grad()
def test_rows_with_nothing_in_common_are_packed_unharmed(backbone: Backbone) -> None:
    system, about = Full(), document(backbone, FIRST)
    traces = [
        Trace("", "full", steps=(Step(Call("answer", (Text(text),)), Reply(tokens=tuple(backbone.encode(reply)))),))
        for text, reply in [("Who is Ada?", " A writer."), ("Which code?", " KX-41"), (" Velm", " lies")]
    ]
    scores = logprobs(backbone, system, [(about, traces)])
    torch.testing.assert_close(
        scores.logprobs, torch.cat(all_alone(backbone, system, [(about, traces)])), atol=1e-5, rtol=1e-5
    )
    assert only_batch(scores).tokens.shape[0] == 1
    assert set(only_batch(scores).segments.flatten().tolist()) == {1, 2, 3}


@torch.no_grad()
def test_the_same_trace_twice_is_scored_twice(backbone: Backbone) -> None:
    system = Pooled(PooledFold(ratio=4))
    (about, traces), *_ = scored_groups(backbone, system)
    once = logprobs(backbone, system, [(about, traces[:1])]).logprobs
    twice = logprobs(backbone, system, [(about, [traces[0], traces[0]])]).logprobs
    torch.testing.assert_close(twice, torch.cat([once, once]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("choices", [[(0, 1, 2), (0, 1), (0,)], [(0,), (0, 1, 2)], [(1, 0), (0, 1)]])
def test_traces_that_read_different_blocks_are_kept_apart(backbone: Backbone, choices: list[tuple[int, ...]]) -> None:
    system, about = Pooled(PooledFold(ratio=4, window=0, mask="causal", chunk=8)), document(backbone, FIRST)
    reply = Reply(tokens=tuple(backbone.encode(" Velm")))
    calls = [Call("answer", (Text(""), *(BlockRef("", index) for index in chosen), Text("?"))) for chosen in choices]
    traces = [Trace("", "pooled", steps=(Step(call, reply),)) for call in calls]
    scores = logprobs(backbone, system, [(about, traces)])
    torch.testing.assert_close(
        scores.logprobs, torch.cat(all_alone(backbone, system, [(about, traces)])), atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_documents_and_memories_may_stand_in_any_order(backbone: Backbone) -> None:
    system = Pooled(PooledFold(ratio=4, window=0, mask="causal", chunk=16))
    groups = scored_groups(backbone, system)
    folded: list[Scored] = [(memory_of(backbone, system, about), traces) for about, traces in groups]
    whole = logprobs(backbone, system, groups).logprobs
    torch.testing.assert_close(logprobs(backbone, system, folded).logprobs, whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logprobs(backbone, system, [folded[0], groups[1]]).logprobs, whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logprobs(backbone, system, [groups[0], folded[1]]).logprobs, whole, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("settings", POOLED, ids=str)
def test_what_generation_stores_is_what_scoring_finds(
    any_backbone: Backbone, settings: dict[str, Any], temperature: float
) -> None:
    system, about = Pooled(PooledFold(chunk=16, **settings)), document(any_backbone, FIRST)
    memory = memory_of(any_backbone, system, about)
    read = [BlockRef(memory.name, block.index) for block in memory.blocks]
    parts: tuple[Part, ...] = (Text(""), *read, Text("\nWho?\n"))
    params = [SamplingParams(max_tokens=9, temperature=temperature, seed=seed) for seed in range(3)]
    calls = [Call("answer", parts, Generate(each)) for each in params]
    replies = generate(any_backbone, [system.render(memory, call, any_backbone) for call in calls], params)
    traces = [Trace("", "pooled", steps=(Step(call, reply),)) for call, reply in zip(calls, replies, strict=True)]
    scores = logprobs(any_backbone, system, [(memory, traces)])
    stored = [value for reply in replies for value in reply.logprobs]
    assert scores.logprobs.tolist() == pytest.approx(stored, abs=2e-4)
    if temperature == 0:
        assert bool(scores.correct.all())
    else:
        assert len({reply.tokens for reply in replies}) > 1
        assert not bool(scores.correct.all())


# By hand: four tokens whose embeddings are also their hidden states and their logits.
LOGITS = [[0.0, 2.0, 1.0, 1.0], [3.0, 3.0, 1.0, 1.0], [5.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]


@dataclass
class ByHand:
    """A backbone whose logits after a position are the logarithms of that position's embedding."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    window: int = 1000
    end_token: int = 3
    hidden_size: int = 4
    position_limit: None = None
    fit: Fit = TESTED["llama"]
    embed_rows = Backbone.embed_rows

    def __post_init__(self) -> None:
        rows = torch.tensor([[value or 2.0 for value in row] for row in LOGITS])
        embedding = nn.Embedding.from_pretrained(rows, freeze=False)
        self.model = SimpleNamespace(get_input_embeddings=lambda: embedding)

    def weights(self) -> ByHand:
        return self

    def adapter(self, role: str | None) -> AbstractContextManager[None]:
        assert role is None
        return nullcontext()

    def encode(self, text: str) -> list[int]:
        return [int(character) for character in text]

    def prompt(self, parts: Sequence[Part], chat_template: str) -> list[list[int]]:
        return [self.encode(part.text) if isinstance(part, Text) else [] for part in parts]

    def is_long(self, length: int) -> bool:
        return False

    def read(self, batch: RowBatch) -> Tensor:
        assert set(batch.prefixes) == {None}
        return self.embed_rows(batch.tokens, batch.slots)

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden.log()


def test_log_probabilities_by_hand() -> None:
    backbone = cast(Backbone, ByHand())
    step = Step(Call("answer", (Text("31"),)), Reply(tokens=(2, 0, 3)))
    not_trained = Step(Call("note", (Text("2"),), trained=False), Reply(tokens=(1,)))
    memory = Memory("m", "full", {}, "", (), [])
    scores = logprobs(backbone, Full(), [(memory, [Trace("", "full", steps=(not_trained, step))])])
    # after 1: 3 3 1 1 of 8; after 2: 5 1 1 1 of 8; after 0: 2 2 1 1 of 6
    assert scores.logprobs.exp().tolist() == pytest.approx([1 / 8, 5 / 8, 1 / 6])
    assert scores.correct.tolist() == [False, True, False]
    assert [(call.purpose, call.count) for call in scores.calls] == [("answer", 3)]


def test_a_slot_is_read_at_its_position_by_hand() -> None:
    backbone = cast(Backbone, ByHand())
    slots = torch.tensor([[1.0, 1.0, 1.0, 7.0], [1.0, 6.0, 2.0, 1.0]])
    memory = Memory("m", "pooled", {}, "", ("a",), [Block(0, 0, 0, 2, 0, 0, slots)])
    system = Pooled(PooledFold(ratio=1, wrapper="none"))
    bridges: list[tuple[Text, ...]] = [(), (Text("0"),)]
    steps = [Step(Call("answer", (Text("3"), BlockRef("m", 0), *bridge)), Reply(tokens=(1, 2))) for bridge in bridges]
    scores = logprobs(backbone, system, [(memory, [Trace("", "pooled", steps=(step,)) for step in steps])])
    # after the second slot: 1 6 2 1 of 10; after 0: 2 2 1 1 of 6; after 1: 3 3 1 1 of 8
    assert scores.logprobs.exp().tolist() == pytest.approx([6 / 10, 1 / 8, 2 / 6, 1 / 8])


def test_the_gradient_of_a_loss_by_hand() -> None:
    slots = torch.tensor([[1.0, 6.0, 2.0, 1.0]], requires_grad=True)

    class Given(Pooled):
        def compress(self, documents: Sequence[Document], model: Model, done: int = 0) -> Iterator[Block]:
            yield Block(0, 0, 0, 1, 0, 0, slots * 1.0)

    step = Step(Call("answer", (Text("3"), BlockRef("m", 0))), Reply(tokens=(1, 2)))
    scored: list[Scored] = [(Document("m", tokens=(0,)), [Trace("", "pooled", steps=(step,))])]
    scores = logprobs(cast(Backbone, ByHand()), Given(PooledFold(ratio=1, wrapper="none")), scored)
    loss = -scores.logprobs.sum()
    assert loss.item() == pytest.approx(-torch.log(torch.tensor(6 / 10 * 1 / 8)).item())
    scores.backward(loss)
    # d/dx of -(log x1 - log(x0 + x1 + x2 + x3)): 1/10 everywhere, less 1/6 at the target
    assert slots.grad is not None
    assert slots.grad[0].tolist() == pytest.approx([0.1, 0.1 - 1 / 6, 0.1, 0.1])


# Gradients.


@pytest.mark.parametrize("settings", POOLED[:2], ids=str)
def test_the_gradient_in_two_passes_equals_the_gradient_in_one(
    any_backbone: Backbone, settings: dict[str, Any]
) -> None:
    system = Pooled(PooledFold(chunk=16, **settings))
    groups = scored_groups(any_backbone, system)

    def in_two() -> None:
        scores = logprobs(any_backbone, system, groups)
        assert all(leaf.is_leaf for _, leaf in scores.slots)
        scores.backward(weighted(scores.logprobs))

    def in_one() -> None:
        weighted(torch.cat(all_alone(any_backbone, system, groups))).backward()

    two, one = gradients(any_backbone, in_two), gradients(any_backbone, in_one)
    assert one.keys() == dict(any_backbone.parameters()).keys()
    assert_equal_gradients(two, one, 1e-5)


def test_the_gradient_reaches_the_encoder_from_a_document_and_not_from_a_memory(any_backbone: Backbone) -> None:
    system = Pooled(PooledFold(ratio=4, window=0, mask="causal", chunk=16))
    groups = scored_groups(any_backbone, system)
    folded: list[Scored] = [(memory_of(any_backbone, system, about), traces) for about, traces in groups]
    blocks = [block for memory, _ in folded if isinstance(memory, Memory) for block in memory.blocks]
    assert all(block.slots is not None and block.slots.requires_grad for block in blocks)

    def score(about: Sequence[Scored]) -> Callable[[], None]:
        def backward() -> None:
            scores = logprobs(any_backbone, system, about)
            scores.backward(weighted(scores.logprobs))

        return backward

    def score_folded() -> None:
        scores = logprobs(any_backbone, system, groups, folded=True)
        scores.backward(weighted(scores.logprobs))

    whole, decoder = gradients(any_backbone, score(groups)), gradients(any_backbone, score(folded))
    constants = gradients(any_backbone, score_folded)
    assert constants.keys() == decoder.keys()
    for name, gradient in constants.items():
        assert torch.allclose(gradient, decoder[name], atol=1e-5), name
    assert float(whole["heads.pooled.weight"].norm()) > 0
    assert "heads.pooled.weight" not in decoder
    layers = [name for name in decoder if "layers." in name]
    assert layers
    assert all(float((whole[name] - decoder[name]).norm()) > 1e-4 * float(decoder[name].norm()) for name in layers)


def test_frozen_weights_get_no_gradient_and_the_encoder_still_does(new_backbone: Callable[..., Backbone]) -> None:
    backbone = new_backbone()
    backbone.heads.requires_grad_(False)
    system = Pooled(PooledFold(ratio=4))

    def backward() -> None:
        scores = logprobs(backbone, system, scored_groups(backbone, system))
        assert scores.slots
        scores.backward(weighted(scores.logprobs))

    assert gradients(backbone, backward).keys() == dict(backbone.model.named_parameters()).keys()


def test_only_slots_that_were_read_pass_a_gradient_on(backbone: Backbone) -> None:
    system, about = Pooled(PooledFold(ratio=4, window=0, mask="causal", chunk=8)), document(backbone, FIRST)
    step = Step(Call("answer", (Text(""), BlockRef("", 1), Text("?"))), Reply(tokens=(7,)))
    scores = logprobs(backbone, system, [(about, [Trace("", "pooled", steps=(step,))])])
    assert len(scores.slots) > 2
    scores.backward(-scores.logprobs.sum())
    assert [number for number, (_, leaf) in enumerate(scores.slots) if leaf.grad is not None] == [1]
    backbone.model.zero_grad()
    backbone.heads.zero_grad()


def test_a_memory_is_left_as_it_was(backbone: Backbone) -> None:
    system = Pooled(PooledFold(ratio=4))
    memory = memory_of(backbone, system, document(backbone, FIRST))
    blocks = list(memory.blocks)
    trace = scored_groups(backbone, system)[0][1][0]
    logprobs(backbone, system, [(memory, [trace])])
    assert all(after is before for after, before in zip(memory.blocks, blocks, strict=True))
    assert replace(memory) == memory
