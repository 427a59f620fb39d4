from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch
from rendered_calls import prefix_of
from torch import nn

from memfold.backbone.adapters import add_role, is_lora
from memfold.backbone.decode import DecodingBatch
from memfold.backbone.decoding_row import DecodingRow
from memfold.backbone.model import Backbone
from memfold.backbone.policy import LocalPolicy
from memfold.backbone.score import logprobs
from memfold.core.errors import Failure
from memfold.core.job import Job
from memfold.core.model import Model
from memfold.core.policy import Request, complete
from memfold.core.scheduler import Scheduler
from memfold.core.system import Prefix, Rendered
from memfold.core.types import (
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
    Trace,
    Wants,
)
from memfold.systems.full.system import Full

FACTS = ["Ada was born in Velm.", "The code is KX-41. The vault of Oskadim is deep.", "Brisk."]
QUESTION = Text("\nWho?")
ROLES = ("first", "second")


class Fussy(Full):
    """A call whose purpose is `broken` cannot be rendered."""

    def render(self, memory: Memory, call: Call, model: Model) -> Rendered:
        if call.purpose == "broken":
            raise LookupError("no such thing")
        return super().render(memory, call, model)


class Behind(Full):
    """Blocks are read as keys and values, made once for a memory."""

    def render(self, memory: Memory, call: Call, model: Model) -> Rendered:
        backbone = model.weights()
        facts = tuple(part.index for part in call.parts if isinstance(part, BlockRef))
        prefix = memory.cached((self.name, facts), partial(self._prefix, memory, facts, backbone))
        tokens = [token for part in call.parts if isinstance(part, Text) for token in backbone.encode(part.text)]
        positions = list(range(prefix.length, prefix.length + len(tokens)))
        lengths = tuple(0 if isinstance(part, BlockRef) else len(tokens) for part in call.parts)
        return Rendered(tokens, positions, lengths, memory_positions=prefix.length, prefix=prefix, adapter=call.adapter)

    @torch.no_grad()
    def _prefix(self, memory: Memory, facts: Sequence[int], backbone: Backbone) -> Prefix:
        return prefix_of(
            backbone, [token for fact in facts for token in backbone.encode(memory.blocks[fact].text or "")]
        )


@pytest.fixture
def memory() -> Memory:
    blocks = [Block(number, 0, 0, 0, 0, 0, text=text) for number, text in enumerate(FACTS)]
    return Memory("m", "full", {}, "", ("a.txt",), blocks)


@pytest.fixture(scope="module")
def gated(new_backbone: Callable[..., Backbone]) -> Backbone:
    """With two adapters that change what is said, and two heads that give one number each."""
    backbone = new_backbone()
    for seed, role in enumerate(ROLES):
        add_role(backbone, role, 4, 8.0, ("q_proj", "v_proj"), seed)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in backbone.model.named_parameters():
            if is_lora(name):
                weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
        for name in ("gate", "other"):
            backbone.heads[name] = nn.Linear(backbone.hidden_size, 1)
    return backbone


def calls(adapters: tuple[str | None, ...] = (None,)) -> list[Call]:
    """One call for each fact and adapter; their prompts and replies have different lengths."""
    return [
        Call("answer", (BlockRef("m", fact), QUESTION), Generate(SamplingParams(max_tokens=3 + fact)), adapter)
        for adapter in adapters
        for fact in (1, 2, 0)
    ]


def run(backbone: Backbone, system: Full, memory: Memory, asked: Sequence[Call], bound: int = 1 << 16) -> list[Reply]:
    return complete(LocalPolicy(backbone, bound), [Request(system, memory, call) for call in asked])


def outcomes(backbone: Backbone, requests: Sequence[Request]) -> list[Reply | Failure]:
    """What becomes of each request, in their order."""
    execution = LocalPolicy(backbone).start()
    for request in requests:
        execution.submit(request)
    done: dict[Request, Reply | Failure] = {}
    while len(done) < len(requests):
        done |= dict(execution.step())
    return [done[request] for request in requests]


def tokens(replies: Sequence[Reply | Failure]) -> list[tuple[int, ...]]:
    assert all(isinstance(reply, Reply) for reply in replies), replies
    return [reply.tokens for reply in replies if isinstance(reply, Reply)]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | None, int]]:
    """The adapter and the number of rows of each batch whose prompts are read."""
    noted: list[tuple[str | None, int]] = []
    begin = DecodingBatch.__init__

    def note(self: DecodingBatch, backbone: Backbone, rows: Sequence[DecodingRow]) -> None:
        assert len({row.rendered.adapter for row in rows}) == 1, "rows of one adapter only"
        noted.append((rows[0].rendered.adapter, len(rows)))
        begin(self, backbone, rows)

    monkeypatch.setattr(DecodingBatch, "__init__", note)
    return noted


def test_replies_come_in_the_order_of_their_calls(backbone: Backbone, memory: Memory) -> None:
    together = tokens(run(backbone, Full(), memory, calls()))
    assert together == [tokens(run(backbone, Full(), memory, [call]))[0] for call in calls()]
    assert [len(reply) for reply in together] == [4, 5, 3]


@pytest.mark.parametrize(
    ("adapters", "bound", "expected"),
    [
        ((None,), 1 << 16, [(None, 3)]),
        ((None, "first"), 1 << 16, [(None, 3), ("first", 3)]),
        ((None,), 1, [(None, 1)] * 3),
    ],
)
def test_batches_hold_one_adapter_and_keep_within_their_bound(
    gated: Backbone,
    memory: Memory,
    batches: list[tuple[str | None, int]],
    adapters: tuple[str | None, ...],
    bound: int,
    expected: list[tuple[str | None, int]],
) -> None:
    alone = [tokens(run(gated, Full(), memory, [call]))[0] for call in calls(adapters)]
    batches.clear()
    replies = run(gated, Full(), memory, calls(adapters), bound)
    assert batches == expected
    assert tokens(replies) == alone


def test_calls_of_all_adapters_are_answered_by_their_own(gated: Backbone, memory: Memory) -> None:
    adapters = (None, *ROLES)
    together = tokens(run(gated, Full(), memory, calls(adapters)))
    for number, adapter in enumerate(adapters):
        for call, reply in zip(calls(), together[3 * number :], strict=False):
            (fact,) = (part.index for part in call.parts if isinstance(part, BlockRef))
            prompt = torch.tensor([[*gated.encode(FACTS[fact]), *gated.encode(QUESTION.text)]])
            with gated.adapter(adapter):
                output = gated.model.generate(prompt, max_new_tokens=3 + fact, do_sample=False)  # type: ignore[operator]
            assert list(reply) == output[0, prompt.shape[1] :].tolist()
    assert len(set(together)) == 9, "adapters change what is said"
    assert gated.active_role is None


def test_a_call_that_cannot_be_rendered_is_a_failure_of_its_own(backbone: Backbone, memory: Memory) -> None:
    first, second, third = calls()
    asked = [first, replace(second, purpose="broken"), third]
    replies = outcomes(backbone, [Request(Fussy(), memory, call) for call in asked])
    assert replies[1] == Failure("policy", "LookupError", "no such thing")
    assert tokens([replies[0], replies[2]]) == tokens(run(backbone, Full(), memory, [first, third]))


def test_a_memory_that_cannot_be_rendered_fails_on_its_own_trace(backbone: Backbone, memory: Memory) -> None:
    without_text = replace(memory, name="bare", blocks=[Block(0, 0, 0, 0, 0, 0)])
    jobs = [Job(Full(), each, "Who was born?") for each in (memory, without_text, memory)]
    traces = dict(Scheduler(LocalPolicy(backbone), max_concurrency=2).run(jobs))
    assert [traces[number].failure and str(traces[number].failure) for number in range(3)] == [
        None,
        "policy: DataError: this memory holds no text to read; fold the documents again",
        None,
    ]
    assert traces[0].answer == traces[2].answer
    assert len(traces[0].steps[0].reply.tokens) > 0


@pytest.mark.parametrize("bound", [1 << 16, 1])
def test_streams_and_cancellations_reach_their_own_call(backbone: Backbone, memory: Memory, bound: int) -> None:
    heard = ["", "", ""]
    requests = [Request(Full(), memory, call) for call in calls()]
    execution = LocalPolicy(backbone, bound).start()

    def listen(number: int, piece: str) -> None:
        heard[number] += piece
        if number == 1:
            execution.cancel(requests[1])

    for number, request in enumerate(requests):
        request.on_text = partial(listen, number)
        execution.submit(request)
    done: dict[Request, Reply | Failure] = {}
    while len(done) < 3:
        done |= dict(execution.step())
    replies = [done[request] for request in requests]
    assert [reply.text for reply in replies if isinstance(reply, Reply)] == heard
    assert [reply.finish for reply in replies if isinstance(reply, Reply)] == ["length", "cancelled", "length"]


SYSTEMS = [Full(), Behind()]


@torch.no_grad()
@pytest.mark.parametrize("system", SYSTEMS, ids=["tokens", "prefix"])
def test_head_scores_are_those_of_the_last_hidden_state(gated: Backbone, memory: Memory, system: Full) -> None:
    """Prompts, or prefixes, of different lengths in one batch."""
    asked = [
        Call("gate", (BlockRef("m", fact), QUESTION), HeadScore(head), adapter)
        for head in ("gate", "other")
        for adapter in (None, *ROLES)
        for fact in range(3)
    ]
    if isinstance(system, Behind):  # a prefix is made once, without adapter; with one the sequences would differ
        asked = [call for call in asked if call.adapter is None]
    replies = run(gated, system, memory, asked)
    for call, reply in zip(asked, replies, strict=True):
        assert isinstance(call.wants, HeadScore)
        (fact,) = (part.index for part in call.parts if isinstance(part, BlockRef))
        with gated.adapter(call.adapter):
            pieces = [*gated.encode(FACTS[fact]), *gated.encode(QUESTION.text)]
            hidden = gated.model.base_model(torch.tensor([pieces]), use_cache=False).last_hidden_state
        expected = float(gated.heads[call.wants.head](hidden[0, -1]))
        assert reply.score == pytest.approx(expected, abs=1e-5)
        assert (reply.tokens, reply.text) == ((), "")
        assert reply.positions == len(gated.encode(FACTS[fact]))
    assert len({round(reply.score or 0.0, 4) for reply in replies}) == len(asked), "every call has a score of its own"


@torch.no_grad()
@pytest.mark.parametrize("system", SYSTEMS, ids=["tokens", "prefix"])
def test_likelihoods_are_the_log_probabilities_of_scoring(gated: Backbone, memory: Memory, system: Full) -> None:
    replies = [tuple(gated.encode(text)) for text in (" Ada Brisk", " KX-41.", " nobody at all", " Velm")]
    adapters = (None,) if isinstance(system, Behind) else (None, *ROLES)
    asked = [
        Call("likelihood", (BlockRef("m", fact), QUESTION), Likelihood(reply), adapter)
        for adapter in adapters
        for fact in range(3)
        for reply in replies
    ]
    made = run(gated, system, memory, asked)
    for call, reply in zip(asked, made, strict=True):
        assert isinstance(call.wants, Likelihood)
        assert (reply.tokens, reply.text) == (call.wants.tokens, gated.decode(call.wants.tokens))
        trace = Trace("", "full", steps=(Step(replace(call, wants=Generate()), Reply(tokens=call.wants.tokens)),))
        scores = logprobs(gated, system, [(memory, [trace])])
        assert reply.logprobs == pytest.approx(scores.logprobs.tolist(), abs=1e-5)
    assert len({reply.logprobs[0] for reply in made}) == len(asked)


@pytest.mark.parametrize("wants", [HeadScore("gate"), Likelihood((7, 8)), Generate(SamplingParams(max_tokens=2))])
def test_an_unknown_adapter_is_a_failure_that_names_it(gated: Backbone, memory: Memory, wants: Wants) -> None:
    parts = (BlockRef("m", 0), QUESTION)
    asked = [Call("answer", parts, wants), Call("answer", parts, wants, "third"), Call("answer", parts, wants, "first")]
    first, failure, last = outcomes(gated, [Request(Full(), memory, call) for call in asked])
    assert isinstance(failure, Failure)
    assert (failure.boundary, failure.kind) == ("policy", "CheckpointError")
    assert failure.message == "model 'qwen3' has no adapter 'third'; its adapters: first, second; train it first"
    assert [first, last] == run(gated, Full(), memory, [asked[0], asked[2]])
    assert gated.active_role is None


def test_an_unknown_head_is_a_failure_that_names_it(gated: Backbone, memory: Memory) -> None:
    wants = [HeadScore("gate"), HeadScore("gote"), HeadScore("other"), Likelihood((7,))]
    asked = [Call("gate", (BlockRef("m", 0), QUESTION), each) for each in wants]
    first, failure, third, last = outcomes(gated, [Request(Full(), memory, call) for call in asked])
    assert failure == Failure(
        "policy", "CheckpointError", "model 'qwen3' has no head 'gote'; train it for this system first"
    )
    assert [first, third, last] == run(gated, Full(), memory, [asked[0], asked[2], asked[3]])


def test_a_likelihood_of_nothing_and_a_score_of_a_short_call_leave_decoding_alone(
    gated: Backbone, memory: Memory
) -> None:
    parts = (BlockRef("m", 0), QUESTION)
    asked = [*calls(), Call("likelihood", parts, Likelihood(())), Call("gate", parts, HeadScore("gate"), "second")]
    replies = outcomes(gated, [Request(Full(), memory, call) for call in asked])
    assert tokens(replies[:3]) == tokens(run(gated, Full(), memory, calls()))
    nothing, score = replies[3:]
    assert isinstance(nothing, Reply)
    assert (nothing.tokens, nothing.logprobs, nothing.text) == ((), (), "")
    assert isinstance(score, Reply)
    assert score.score is not None
