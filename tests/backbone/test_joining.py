"""Calls that join a running decoding batch are answered as they are alone."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memfold.backbone import policy as policy_module
from memfold.backbone.adapters import add_role, is_lora
from memfold.backbone.decode import DecodingBatch
from memfold.backbone.model import Backbone
from memfold.backbone.policy import LocalPolicy
from memfold.backbone.rows import pad
from memfold.core.document import Document
from memfold.core.job import Job
from memfold.core.model import Model
from memfold.core.policy import Request, complete
from memfold.core.registry import AnySystem
from memfold.core.scheduler import Scheduler, answer
from memfold.core.system import AnswerSteps, Prefix, Rendered, ask, ask_all
from memfold.core.types import (
    Answer,
    Block,
    BlockRef,
    Call,
    Generate,
    HeadScore,
    Likelihood,
    Memory,
    Reply,
    SamplingParams,
    Step,
    Text,
)
from memfold.systems.full.system import Full
from memfold.systems.pooled.system import Pooled

ROLES = ("first", "second")
SENTENCES = (
    "Ada was born in Velm. ",
    "The code is KX-41, and the vault of Oskadim is deep. ",
    "Lor met her by the sea in the year 1871. ",
    "Brisk. ",
)


class Prefixed(Full):
    """Its calls are read behind keys and values; how many depends on the memory."""

    def render(self, memory: Memory, call: Call, model: Model) -> Rendered:
        rendered = super().render(memory, call, model)
        prefix = memory.cached("prefix", lambda: _random_prefix(model.weights(), 1 + len(memory.name)))
        positions = [position + prefix.length for position in rendered.positions]
        return replace(rendered, prefix=prefix, positions=positions, adapter=call.adapter)


class Adapted(Full):
    """Its calls name their adapter."""

    def render(self, memory: Memory, call: Call, model: Model) -> Rendered:
        return replace(super().render(memory, call, model), adapter=call.adapter)


def _random_prefix(backbone: Backbone, length: int) -> Prefix:
    config = backbone.model.config
    generator = torch.Generator().manual_seed(length)
    shape = (config.num_key_value_heads, length, config.head_dim)
    layers = []
    for _ in range(config.num_hidden_layers):
        keys, values = (torch.randn(shape, generator=generator).to(backbone.dtype) for _ in range(2))
        layers.append((keys, values))
    return Prefix(tuple(layers))


def exact(backbone: Backbone) -> Backbone:
    """The model in float64: in float32, what is drawn near the border between two tokens depends on the padding."""
    backbone.model.double()
    backbone.heads.double()
    return backbone


@pytest.fixture(scope="module")
def exact_backbone(any_backbone: Backbone, new_backbone: Callable[..., Backbone]) -> Backbone:
    return exact(new_backbone(any_backbone.name))


@pytest.fixture(scope="module")
def adapted_backbone(new_backbone: Callable[..., Backbone]) -> Backbone:
    """With two adapters that change what is said."""
    backbone = exact(new_backbone())
    for role in ROLES:
        add_role(backbone, role, rank=4, alpha=8.0, targets=("q_proj", "v_proj"))
    torch.manual_seed(1)
    for name, parameter in backbone.parameters():
        if is_lora(name):
            torch.nn.init.normal_(parameter, std=0.3)
    return backbone


def memory_of(backbone: Backbone, sentences: int) -> Memory:
    """A memory with slots and text, longer or shorter."""
    text = "".join(SENTENCES[number % len(SENTENCES)] for number in range(sentences))
    document = Document("a.txt", text=text)
    with torch.no_grad():
        blocks = list(Pooled.of({"ratio": 4}).compress([document], backbone))
    return Memory("m" * sentences, "pooled", {}, "", ("a.txt",), blocks)


@dataclass(frozen=True)
class Asked:
    """One random job: `wait` steps after the job before it, a few calls about a memory."""

    wait: int
    sentences: int
    question: str
    sampling: tuple[SamplingParams, ...]
    system: int
    head: bool


def calls_of(asked: Asked, roles: tuple[str | None, ...]) -> Callable[[Memory, str], AnswerSteps]:
    """Two calls at once, the likelihood of one reply (or a head's score), then an answer that follows from them."""

    def made(memory: Memory, question: str, number: int, *more: Text) -> Call:
        blocks = tuple(BlockRef(memory.name, block.index) for block in memory.blocks)
        role = roles[(len(question) + number) % len(roles)]
        sampling = asked.sampling[number % len(asked.sampling)]
        parts = (Text("Read:\n"), *blocks, Text(f"\n{question}\n"), *more)
        return Call("answer" if more else "note", parts, Generate(sampling), role)

    def steps(memory: Memory, question: str) -> AnswerSteps:
        calls = [made(memory, question, 0), made(memory, f"{question} Why?", 1)]
        first, second = yield from ask_all(calls)
        quick = HeadScore("gate") if asked.head else Likelihood(first.tokens)
        scored = yield from ask(replace(calls[0], purpose="score", wants=quick))
        note = f"{second.text} {len(scored.tokens)}"
        reply = yield from ask(made(memory, question, 2, Text(note)))
        return Answer(reply.text, reply.text)

    return steps


def one_call_at_a_time(job: Job, backbone: Backbone) -> list[Step]:
    """The steps of a job, each call computed by itself."""
    assert job.ask is not None
    generator, replies, steps = job.ask(job.memory, job.question), None, list[Step]()
    while True:
        try:
            calls = generator.send(replies)  # type: ignore[arg-type]
        except StopIteration:
            return steps
        policy = LocalPolicy(backbone)
        replies = tuple(complete(policy, [Request(job.system, job.memory, call)])[0] for call in calls)
        steps += [Step(call, reply) for call, reply in zip(calls, replies, strict=True)]


def assert_same(replies: Sequence[Reply], expected: Sequence[Reply]) -> None:
    """Equal replies, their numbers up to rounding: padding changes the order of sums."""
    for reply, other in zip(replies, expected, strict=True):
        assert replace(reply, logprobs=(), score=None) == replace(other, logprobs=(), score=None)
        assert reply.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert reply.score == pytest.approx(other.score, abs=1e-4)


SAMPLING = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 12),
    temperature=st.sampled_from([0.0, 0.0, 0.7, 1.0]),
    top_p=st.sampled_from([1.0, 0.9]),
    top_k=st.sampled_from([0, 20]),
    repetition_penalty=st.sampled_from([1.0, 1.2]),
    seed=st.integers(0, 99),
)
ASKED = st.builds(
    Asked,
    wait=st.integers(0, 6),
    sentences=st.integers(1, 9),
    question=st.sampled_from(
        ["Who?", "Where was Ada born, and what is the code?", "Is the vault of Oskadim deep? " * 4]
    ),
    sampling=st.lists(SAMPLING, min_size=1, max_size=3).map(tuple),
    system=st.integers(0, 2),
    head=st.booleans(),
)
MANY = st.lists(ASKED, min_size=2, max_size=6)
ROOM = st.sampled_from([1, 150, 400, 1 << 16])
FEW = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def check(
    backbone: Backbone,
    systems: list[AnySystem],
    asked: list[Asked],
    batch_positions: int,
    max_concurrency: int,
    roles: tuple[str | None, ...] = (None,),
) -> None:
    """Submit jobs at random steps of the others' work; compare with one call at a time."""
    jobs = [
        Job(
            systems[each.system % len(systems)],
            memory_of(backbone, each.sentences),
            each.question,
            ask=calls_of(each, roles),
        )
        for each in asked
    ]
    streams = [""] * len(jobs)

    def listen(number: int, text: str) -> None:
        streams[number] += text

    traces = {}
    with Scheduler(LocalPolicy(backbone, batch_positions), max_concurrency, listen) as scheduler:
        for each, job in zip(asked, jobs, strict=True):
            for _ in range(each.wait):
                traces |= dict(scheduler.step())
            scheduler.submit(job)
        while not scheduler.idle:
            traces |= dict(scheduler.step())
    for number, job in enumerate(jobs):
        trace = traces[number]
        assert trace.failure is None
        steps = one_call_at_a_time(job, backbone)
        assert [step.call for step in trace.steps] == [step.call for step in steps]
        assert_same([step.reply for step in trace.steps], [step.reply for step in steps])
        assert trace.answer is not None
        assert streams[number] == trace.answer.reply


def with_gate(backbone: Backbone) -> Backbone:
    """The model with a head for scores, which it does not keep."""
    torch.manual_seed(2)
    heads = torch.nn.ModuleDict(dict(backbone.heads.items()))
    heads["gate"] = torch.nn.Linear(backbone.hidden_size, 1, dtype=backbone.dtype)
    return replace(backbone, heads=heads)


@FEW
@given(asked=MANY, batch_positions=ROOM, max_concurrency=st.sampled_from([2, 8]))
def test_calls_that_join_are_answered_as_they_are_alone(
    exact_backbone: Backbone, asked: list[Asked], batch_positions: int, max_concurrency: int
) -> None:
    systems: list[AnySystem] = [Full(), Pooled.of({"ratio": 4}), Prefixed()]
    check(with_gate(exact_backbone), systems, asked, batch_positions, max_concurrency)


@FEW
@given(asked=MANY, batch_positions=ROOM)
def test_calls_of_several_adapters_are_answered_as_they_are_alone(
    adapted_backbone: Backbone, asked: list[Asked], batch_positions: int
) -> None:
    systems: list[AnySystem] = [Adapted(), Prefixed()]
    check(with_gate(adapted_backbone), systems, asked, batch_positions, 8, (None, *ROLES))


def single(backbone: Backbone, sentences: int, max_tokens: int, text: str = "Who?") -> Request:
    memory = memory_of(backbone, sentences)
    blocks = tuple(BlockRef(memory.name, block.index) for block in memory.blocks)
    wants = Generate(SamplingParams(max_tokens=max_tokens))
    return Request(Full(), memory, Call("answer", (*blocks, Text(f"\n{text}\n")), wants))


def alone(backbone: Backbone, request: Request) -> Reply:
    return complete(LocalPolicy(backbone), [Request(request.system, request.memory, request.call)])[0]


def test_a_call_joins_at_the_next_step_and_shares_the_batch(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    plain = DecodingBatch.step

    def step(self: DecodingBatch) -> None:
        plain(self)
        rows.append(sum(row.finish is None for row in self.rows))

    monkeypatch.setattr(DecodingBatch, "step", step)
    requests = [single(backbone, sentences, 8, text) for sentences, text in ((2, "Who?"), (3, "Where?"), (2, "What?"))]
    expected = [alone(backbone, request) for request in requests]
    rows.clear()
    execution = LocalPolicy(backbone).start()
    done = {}
    for request in requests:
        execution.submit(request)
        for _ in range(2):
            done |= dict(execution.step())
    assert rows == [1, 1, 2, 2, 3]  # one batch all the time: the newest read their prompts beside it
    while len(done) < len(requests):
        done |= dict(execution.step())
    assert [done[request].tokens for request in requests] == [reply.tokens for reply in expected]


def test_a_score_is_the_same_alone_and_beside_others(any_backbone: Backbone) -> None:
    model = with_gate(any_backbone)
    requests = []
    for sentences in (2, 5):  # slots stand far apart: a model must not take that for the border of another sequence
        memory = memory_of(model, sentences)
        parts = (Text("Read:\n"), BlockRef(memory.name, 0), Text("\nWho?"))
        requests.append(Request(Pooled.of({"ratio": 4}), memory, Call("gate", parts, HeadScore("gate"))))
    together = complete(LocalPolicy(model), requests)
    assert_same([alone(model, request) for request in requests], together)
    rendered = requests[0].system.render(requests[0].memory, requests[0].call, model)
    batch = pad([rendered], model.device)
    with torch.no_grad():
        hidden = model.read(batch)[0, -1]
        assert together[0].score == pytest.approx(float(model.head_score("gate", hidden)), abs=1e-4)


def test_a_score_never_waits_for_replies_that_are_being_written(backbone: Backbone) -> None:
    model = with_gate(backbone)
    written = single(model, 4, 40)
    gates = [replace(single(model, 3, 1), call=replace(written.call, wants=HeadScore("gate"))) for _ in range(3)]
    execution = LocalPolicy(model).start()
    execution.submit(written)
    assert execution.step() == []
    for gate in gates:
        execution.submit(gate)
        ((request, reply),) = execution.step()
        assert request is gate
        assert isinstance(reply, Reply)
        assert reply.score is not None
    execution.close()


def test_a_short_reply_never_waits_for_a_long_one(backbone: Backbone) -> None:
    jobs = []
    for number, most in enumerate((30, 2, 3)):
        request = single(backbone, 2 + number, most)
        jobs.append(Job(request.system, request.memory, "Who?", ask=_only(request.call)))
    order = [number for number, _ in Scheduler(LocalPolicy(backbone)).run(jobs)]
    expected = [answer(job, LocalPolicy(backbone)).steps[0].reply.finish for job in jobs]
    assert expected == ["length"] * 3, "replies of a model with random weights run to their limits"
    assert order == [1, 2, 0]


def _only(call: Call) -> Callable[[Memory, str], AnswerSteps]:
    def steps(memory: Memory, question: str) -> AnswerSteps:
        reply = yield from ask(call)
        return Answer(reply.text, reply.text)

    return steps


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_cancelled_call_leaves_the_batch_with_what_it_has_written(backbone: Backbone, after: int) -> None:
    pieces: list[str] = []
    requests = [single(backbone, 2, 12), single(backbone, 3, 12, "Where?"), single(backbone, 2, 12, "What?")]
    requests[1].on_text = pieces.append
    expected = [alone(backbone, request) for request in requests]
    execution = LocalPolicy(backbone).start()
    for request in requests:
        execution.submit(request)
    done: dict[Request, Any] = {}
    for _ in range(after):
        done |= dict(execution.step())
    execution.cancel(requests[1])
    done |= dict(execution.step())
    assert set(done) == {requests[1]}
    cancelled = done[requests[1]]
    assert cancelled.finish == "cancelled"
    assert cancelled.tokens == expected[1].tokens[:after]
    assert cancelled.text == "".join(pieces)
    while len(done) < 3:
        done |= dict(execution.step())
    assert_same([done[requests[0]], done[requests[2]]], [expected[0], expected[2]])


def test_a_cancelled_call_is_forgotten(backbone: Backbone) -> None:
    execution = LocalPolicy(backbone).start()
    requests = [single(backbone, 2, 12), single(backbone, 3, 1)]
    for request in requests:
        execution.submit(request)
    execution.step()
    for request in requests:
        execution.cancel(request)
    assert [request for request, _ in execution.step()] == requests[:1]
    forgotten = [weakref.ref(request) for request in requests]
    del request, requests
    gc.collect()
    assert [reference() for reference in forgotten] == [None, None]


def test_what_has_no_room_waits_for_those_before_it(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [single(backbone, 6, 6), single(backbone, 2, 6), single(backbone, 5, 6), single(backbone, 3, 6)]
    expected = [alone(backbone, request) for request in requests]
    widest: list[int] = []
    plain = policy_module.LocalExecution.step

    def step(self: policy_module.LocalExecution) -> list[Any]:
        done = plain(self)
        widest.append(sum(len(batch.rows) * batch.width for batch in self._batches))
        return done

    monkeypatch.setattr(policy_module.LocalExecution, "step", step)
    longest = max(len(Full().render(each.memory, each.call, backbone).tokens) for each in requests)
    bound = longest + 12
    assert_same(complete(LocalPolicy(backbone, bound), requests), expected)
    assert max(widest) <= bound
    assert len(widest) > 6


def test_a_block_without_text_fails_alone_while_others_join(backbone: Backbone) -> None:
    requests = [single(backbone, 3, 6), single(backbone, 2, 6)]
    bare = replace(requests[0].memory, blocks=[Block(0, 0, 0, 0, 0, 0)])
    failing = Request(Full(), bare, requests[0].call)
    expected = [alone(backbone, request) for request in requests]
    execution = LocalPolicy(backbone).start()
    execution.submit(requests[0])
    done: dict[Request, Any] = dict(execution.step())
    execution.submit(failing)
    execution.submit(requests[1])
    done |= dict(execution.step())
    assert set(done) == {failing}
    assert (done[failing].boundary, done[failing].kind) == ("policy", "DataError")
    while len(done) < 3:
        done |= dict(execution.step())
    assert_same([done[request] for request in requests], expected)
