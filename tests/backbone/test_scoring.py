from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from memfold.backbone.decode import generate
from memfold.backbone.model import Backbone
from memfold.backbone.rows import Line, pack
from memfold.backbone.score import Scored, logprobs
from memfold.core.document import Document
from memfold.core.errors import CallError
from memfold.core.system import SLOT, MemorySystem, Rendered
from memfold.core.types import Block, BlockRef, Call, Memory, Part, Reply, Sample, SamplingParams, Step, Text, Trace
from memfold.systems.full.system import Full
from memfold.systems.pooled.system import Pooled

FIRST = "Ada Brisk was born in Velm in 1893. She wrote the Long Ledger. The code of the vault is KX-41."
SECOND = "Oskadim lies on the river Tarn. Its mayor is Lor Tavenlor, a baker."
QUESTIONS = {
    FIRST: [("Where was Ada born?", "Velm"), ("What is the code?", "KX-41"), ("Who wrote?", "Ada Brisk")],
    SECOND: [("Who is the mayor?", "Lor Tavenlor"), ("Which river?", "Tarn")],
}


def document(backbone: Backbone, text: str) -> Document:
    return Document(text[:6], tokens=tuple(backbone.encode(text)))


def scored_groups(backbone: Backbone, system: MemorySystem) -> list[tuple[Document, list[Trace]]]:
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


def memory_of(backbone: Backbone, system: MemorySystem, about: Document) -> Memory:
    blocks = list(system.compress([about], backbone))
    return Memory(about.source, system.name, system.settings, "", (about.source,), blocks)


def alone(backbone: Backbone, system: MemorySystem, memory: Memory, step: Step) -> Tensor:
    """The log-probabilities of one reply, from a plain forward pass of the model over one row."""
    inputs = system.render(memory, step.call, backbone)
    tokens = [*inputs.tokens, *step.reply.tokens]
    count = len(step.reply.tokens)
    positions = [*inputs.positions, *range(inputs.positions[-1] + 1, inputs.positions[-1] + 1 + count)]
    embeddings = backbone.embed([max(token, 0) for token in tokens])
    if inputs.slots is not None:
        rows = list(embeddings)
        slots = iter(inputs.slots)
        embeddings = torch.stack(
            [next(slots) if token == SLOT else row for token, row in zip(tokens, rows, strict=True)]
        )
    causal = torch.ones(len(tokens), len(tokens), dtype=torch.bool).tril()[None, None]
    logits: Tensor = backbone.model(
        inputs_embeds=embeddings[None], position_ids=torch.tensor([positions]), attention_mask=causal, use_cache=False
    ).logits
    table = logits[0, -count - 1 : -1].log_softmax(-1)
    return table[torch.arange(count), torch.tensor(step.reply.tokens)]


def all_alone(backbone: Backbone, system: MemorySystem, groups: Sequence[tuple[Document, list[Trace]]]) -> list[Tensor]:
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
    for ratio, wrapper, positions, window, mask in [
        (4, "span", "strided", 0, "causal"), (4, "slot", "consecutive", 16, "bidirectional"),
        (1, "none", "consecutive", 0, "causal"), (8, "slot", "strided", 16, "causal"),
    ]
]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("settings", POOLED, ids=str)
def test_packed_lines_of_pooled_equal_one_line_per_row(any_backbone: Backbone, settings: dict[str, Any]) -> None:
    system = Pooled(chunk=16, **settings)
    groups = scored_groups(any_backbone, system)
    scores = logprobs(any_backbone, system, groups)
    apart = all_alone(any_backbone, system, groups)
    assert [stretch.count for stretch in scores.stretches] == [len(values) for values in apart]
    torch.testing.assert_close(scores.logprobs, torch.cat(apart), atol=1e-5, rtol=1e-5)
    places = scores.packed.tokens.numel()
    unpacked = sum(len(Line.of(system.render(memory_of(any_backbone, system, about), trace.steps[0].call, any_backbone),
                               trace.steps[0].call.parts, trace.steps[0].reply).tokens)
                   for about, traces in groups for trace in traces)  # fmt: skip
    assert places < unpacked, "what is shared is laid down once"


@torch.no_grad()
@pytest.mark.parametrize("read_loss", [True, False])
def test_packed_lines_of_full_equal_one_line_per_row(any_backbone: Backbone, read_loss: bool) -> None:
    system = Full(read_loss=read_loss)
    groups = scored_groups(any_backbone, system)
    scores = logprobs(any_backbone, system, groups)
    torch.testing.assert_close(
        scores.logprobs, torch.cat(all_alone(any_backbone, system, groups)), atol=1e-5, rtol=1e-5
    )
    expected = ["language", "answer"] * 5 if read_loss else ["answer"] * 5
    assert [stretch.purpose for stretch in scores.stretches] == [*expected, "language"]
    rows = [(stretch.group, stretch.trace) for stretch in scores.stretches]
    assert rows == sorted(rows)
    assert {group for group, _ in rows} == {0, 1, 2}


@torch.no_grad()
@pytest.mark.parametrize("system", [Pooled(ratio=4, window=0, mask="causal", chunk=16), Full()], ids=["pooled", "full"])
def test_eager_attention_reads_the_same_places(new_backbone: Callable[..., Backbone], system: MemorySystem) -> None:
    backbone = new_backbone()
    groups = scored_groups(backbone, system)
    expected = logprobs(backbone, system, groups).logprobs
    backbone.model.set_attn_implementation("eager")
    torch.testing.assert_close(logprobs(backbone, system, groups).logprobs, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("system", [Pooled(ratio=4), Full()], ids=["pooled", "full"])
@pytest.mark.parametrize("places", [60, 10_000])
def test_documents_that_share_a_row_do_not_read_each_other(
    new_backbone: Callable[..., Backbone], system: MemorySystem, places: int
) -> None:
    backbone = new_backbone()
    groups = scored_groups(backbone, system) * 2
    apart = logprobs(backbone, system, groups)
    together = logprobs(backbone, system, groups, row_places=places)
    assert len(together.packed.tokens) == (1 if places == 10_000 else len(apart.packed.tokens))
    torch.testing.assert_close(together.logprobs, apart.logprobs, atol=2e-5, rtol=1e-4)
    assert together.stretches == apart.stretches
    gradients = []
    for scores in (apart, together):
        backbone.model.zero_grad()
        scores.backward(-scores.logprobs.mean())
        gradients.append(backbone.model.get_input_embeddings().weight.grad.clone())
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-3)


def test_rows_are_filled_in_order_and_never_over() -> None:
    def line(first: int, length: int, reply: int = 0) -> Line:
        tokens = [*range(first, first + length - 1), reply or first + length - 1]
        inputs = Rendered(tokens[:-1], list(range(length - 1)), (length - 1,))
        return Line.of(inputs, (Text(tokens=tuple(tokens[:-1])),), Reply(tokens=(tokens[-1],)))

    packed = pack([[line(10, 3)], [line(20, 4)], [line(30, 2), line(30, 2, 39)], [line(40, 5)]], torch.device("cpu"), 8)
    assert packed.tokens.tolist() == [[10, 11, 12, 20, 21, 22, 23, 0], [30, 31, 39, 40, 41, 42, 43, 44]]
    assert packed.positions.tolist() == [[0, 1, 2, 0, 1, 2, 3, 0], [0, 1, 1, 0, 1, 2, 3, 4]]
    mask = packed.mask()[:, 0]
    assert [row.nonzero()[:, 0].tolist() for row in mask[0]] == [
        [0], [0, 1], [0, 1, 2], [3], [3, 4], [3, 4, 5], [3, 4, 5, 6], [7],
    ]  # fmt: skip
    assert [row.nonzero()[:, 0].tolist() for row in mask[1]][:4] == [[0], [0, 1], [0, 2], [3]]
    assert packed.targets.tolist() == [[0, 1, 12], [0, 5, 23], [1, 0, 31], [1, 0, 39], [1, 6, 44]]


@torch.no_grad()
def test_stretches_say_whose_the_numbers_are(backbone: Backbone) -> None:
    system = Full()
    groups = scored_groups(backbone, system)
    whole = logprobs(backbone, system, groups)
    for stretch, values, correct in whole.parts():
        about, traces = groups[stretch.group]
        own = logprobs(backbone, system, [(about, [traces[stretch.trace]])])
        (same,) = [part for part in own.parts() if part[0].purpose == stretch.purpose]
        torch.testing.assert_close(values, same[1], atol=1e-5, rtol=1e-5)
        assert torch.equal(correct, same[2])


@torch.no_grad()
def test_lines_with_nothing_in_common_share_a_row_unharmed(backbone: Backbone) -> None:
    system, about = Full(), document(backbone, FIRST)
    traces = [
        Trace("", "full", steps=(Step(Call("answer", (Text(text),)), Reply(tokens=tuple(backbone.encode(reply)))),))
        for text, reply in [("Who is Ada?", " A writer."), ("Which code?", " KX-41"), (" Velm", " lies")]
    ]
    scores = logprobs(backbone, system, [(about, traces)])
    torch.testing.assert_close(
        scores.logprobs, torch.cat(all_alone(backbone, system, [(about, traces)])), atol=1e-5, rtol=1e-5
    )
    assert scores.packed.tokens.shape[0] == 1
    assert set(scores.packed.segments.flatten().tolist()) == {1, 2, 3}


@torch.no_grad()
def test_the_same_trace_twice_is_scored_twice(backbone: Backbone) -> None:
    system = Pooled(ratio=4)
    (about, traces), *_ = scored_groups(backbone, system)
    once = logprobs(backbone, system, [(about, traces[:1])]).logprobs
    twice = logprobs(backbone, system, [(about, [traces[0], traces[0]])]).logprobs
    torch.testing.assert_close(twice, torch.cat([once, once]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("choices", [[(0, 1, 2), (0, 1), (0,)], [(0,), (0, 1, 2)], [(1, 0), (0, 1)]])
def test_traces_that_read_different_blocks_are_kept_apart(backbone: Backbone, choices: list[tuple[int, ...]]) -> None:
    system, about = Pooled(ratio=4, window=0, mask="causal", chunk=8), document(backbone, FIRST)
    reply = Reply(tokens=tuple(backbone.encode(" Velm")))
    calls = [Call("answer", (Text(""), *(BlockRef("", index) for index in chosen), Text("?"))) for chosen in choices]
    traces = [Trace("", "pooled", steps=(Step(call, reply),)) for call in calls]
    scores = logprobs(backbone, system, [(about, traces)])
    torch.testing.assert_close(
        scores.logprobs, torch.cat(all_alone(backbone, system, [(about, traces)])), atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_documents_and_memories_may_stand_in_any_order(backbone: Backbone) -> None:
    system = Pooled(ratio=4, window=0, mask="causal", chunk=16)
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
    system, about = Pooled(chunk=16, **settings), document(any_backbone, FIRST)
    memory = memory_of(any_backbone, system, about)
    read = [BlockRef(memory.name, block.index) for block in memory.blocks]
    parts: tuple[Part, ...] = (Text(""), *read, Text("\nWho?\n"))
    calls = [
        Call("answer", parts, SamplingParams(max_tokens=9, temperature=temperature, seed=seed)) for seed in range(3)
    ]
    inputs = [system.render(memory, call, any_backbone) for call in calls]
    replies = generate(any_backbone, inputs, [call.limits for call in calls])
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
    """A backbone whose logits after a place are the logarithms of that place's embedding."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    window: int = 1000
    end_token: int = 3
    embed_rows = Backbone.embed_rows

    def __post_init__(self) -> None:
        rows = torch.tensor([[value or 2.0 for value in row] for row in LOGITS])
        embedding = nn.Embedding.from_pretrained(rows, freeze=False)
        self.model = SimpleNamespace(get_input_embeddings=lambda: embedding)

    def encode(self, text: str) -> list[int]:
        return [int(character) for character in text]

    def hidden(self, embeddings: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        return embeddings

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
    assert [(stretch.purpose, stretch.count) for stretch in scores.stretches] == [("answer", 3)]


def test_a_slot_is_read_in_its_place_by_hand() -> None:
    backbone = cast(Backbone, ByHand())
    slots = torch.tensor([[1.0, 1.0, 1.0, 7.0], [1.0, 6.0, 2.0, 1.0]])
    memory = Memory("m", "pooled", {}, "", ("a",), [Block(0, 0, 0, 2, 0, 0, slots, (0, 1))])
    system = Pooled(ratio=1, wrapper="none")
    bridges: list[tuple[Text, ...]] = [(), (Text("0"),)]
    steps = [Step(Call("answer", (Text("3"), BlockRef("m", 0), *bridge)), Reply(tokens=(1, 2))) for bridge in bridges]
    scores = logprobs(backbone, system, [(memory, [Trace("", "pooled", steps=(step,)) for step in steps])])
    # after the second slot: 1 6 2 1 of 10; after 0: 2 2 1 1 of 6; after 1: 3 3 1 1 of 8
    assert scores.logprobs.exp().tolist() == pytest.approx([6 / 10, 1 / 8, 2 / 6, 1 / 8])


def test_the_gradient_of_a_loss_by_hand() -> None:
    by_hand = ByHand()
    slots = torch.tensor([[1.0, 6.0, 2.0, 1.0]], requires_grad=True)

    class Given(Pooled):
        def compress(self, documents: Sequence[Document], backbone: Backbone, done: int = 0) -> Any:
            yield Block(0, 0, 0, 1, 0, 0, slots * 1.0, (0,))

    step = Step(Call("answer", (Text("3"), BlockRef("m", 0))), Reply(tokens=(1, 2)))
    document_scores = logprobs(
        cast(Backbone, by_hand), Given(ratio=1, wrapper="none"),
        [(Document("m", tokens=(0,)), [Trace("", "pooled", steps=(step,))])],
    )  # fmt: skip
    loss = -document_scores.logprobs.sum()
    assert loss.item() == pytest.approx(-torch.log(torch.tensor(6 / 10 * 1 / 8)).item())
    document_scores.backward(loss)
    # d/dx of -(log x1 - log(x0 + x1 + x2 + x3)): 1/10 everywhere, less 1/6 at the target
    assert slots.grad is not None
    assert slots.grad[0].tolist() == pytest.approx([0.1, 0.1 - 1 / 6, 0.1, 0.1])


def test_a_key_value_prefix_cannot_be_scored() -> None:
    inputs = Rendered([1], [0], (1,), prefix=[(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))])
    with pytest.raises(CallError, match="policy: log-probabilities over a key/value prefix"):
        Line.of(inputs, (Text("1"),), Reply(tokens=(1,)))


def test_a_reply_after_nothing_is_refused() -> None:
    with pytest.raises(CallError, match="policy: a reply needs at least one token before it"):
        pack([[Line(Rendered([], [], ()), (), (1, 2))]], torch.device("cpu"))


# Gradients.


Named = dict[str, Tensor]


def gradients(backbone: Backbone, backward: Callable[[], None]) -> Named:
    """What a backward pass leaves in each weight that it reaches."""
    for _, weight in backbone.parameters():
        weight.grad = None
    backward()
    return {name: weight.grad.clone() for name, weight in backbone.parameters() if weight.grad is not None}


def weighted(values: Tensor) -> Tensor:
    """A loss in which every token counts differently."""
    return -(values * torch.linspace(0.5, 1.5, len(values))).sum()


@pytest.mark.parametrize("settings", POOLED[:2], ids=str)
def test_the_gradient_in_two_passes_equals_the_gradient_in_one(
    any_backbone: Backbone, settings: dict[str, Any]
) -> None:
    system = Pooled(chunk=16, **settings)
    groups = scored_groups(any_backbone, system)

    def in_two() -> None:
        scores = logprobs(any_backbone, system, groups)
        assert all(leaf.is_leaf for _, leaf in scores.slots)
        scores.backward(weighted(scores.logprobs))

    def in_one() -> None:
        weighted(torch.cat(all_alone(any_backbone, system, groups))).backward()

    two, one = gradients(any_backbone, in_two), gradients(any_backbone, in_one)
    assert two.keys() == one.keys() == dict(any_backbone.parameters()).keys()
    for name, gradient in one.items():
        assert float((two[name] - gradient).norm() / gradient.norm()) < 1e-5, name


def test_the_gradient_reaches_the_encoder_from_a_document_and_not_from_a_memory(any_backbone: Backbone) -> None:
    system = Pooled(ratio=4, window=0, mask="causal", chunk=16)
    groups = scored_groups(any_backbone, system)
    folded: list[Scored] = [(memory_of(any_backbone, system, about), traces) for about, traces in groups]
    assert all(block.slots.requires_grad for memory, _ in folded if isinstance(memory, Memory)
               for block in memory.blocks if block.slots is not None)  # fmt: skip

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
    system = Pooled(ratio=4)

    def backward() -> None:
        scores = logprobs(backbone, system, scored_groups(backbone, system))
        assert scores.slots
        scores.backward(weighted(scores.logprobs))

    assert gradients(backbone, backward).keys() == dict(backbone.model.named_parameters()).keys()


def test_only_slots_that_were_read_pass_a_gradient_on(backbone: Backbone) -> None:
    system, about = Pooled(ratio=4, window=0, mask="causal", chunk=8), document(backbone, FIRST)
    step = Step(Call("answer", (Text(""), BlockRef("", 1), Text("?"))), Reply(tokens=(7,)))
    scores = logprobs(backbone, system, [(about, [Trace("", "pooled", steps=(step,))])])
    assert len(scores.slots) > 2
    scores.backward(-scores.logprobs.sum())
    assert [number for number, (_, leaf) in enumerate(scores.slots) if leaf.grad is not None] == [1]
    backbone.model.zero_grad()
    backbone.heads.zero_grad()


def test_a_memory_is_left_as_it_was(backbone: Backbone) -> None:
    system = Pooled(ratio=4)
    memory = memory_of(backbone, system, document(backbone, FIRST))
    blocks = list(memory.blocks)
    trace = scored_groups(backbone, system)[0][1][0]
    logprobs(backbone, system, [(memory, [trace])])
    assert all(one is other for one, other in zip(memory.blocks, blocks, strict=True))
    assert replace(memory) == memory
