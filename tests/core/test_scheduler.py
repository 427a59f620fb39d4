from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_policy import ScriptedPolicy

from memfold.core.document import Document
from memfold.core.errors import CallError, ConfigError, DataError, Failure, MemfoldError
from memfold.core.job import Job, SharedReplies, diverged, reading_together
from memfold.core.model import Model
from memfold.core.policy import Request, complete
from memfold.core.prompt import Style
from memfold.core.scheduler import OnText, Scheduler, answer
from memfold.core.settings import ReadSettings, TrainSettings
from memfold.core.system import AnswerSteps, Capabilities, MemorySystem, Rendered, ask, ask_all
from memfold.core.types import (
    Answer,
    Block,
    Call,
    Generate,
    HeadScore,
    Memory,
    Reply,
    Sample,
    SamplingParams,
    Step,
    Text,
    Trace,
)

Steps = Callable[[Memory, str], AnswerSteps]


@dataclass(frozen=True)
class ScriptedFold:
    flavour: str = "plain"


class Scripted(MemorySystem[ScriptedFold, ReadSettings, TrainSettings]):
    """A system whose logic is handed in."""

    name = "scripted"
    groups = (ScriptedFold, ReadSettings, TrainSettings)

    def __init__(self, steps: Steps) -> None:
        super().__init__()
        self.steps = steps

    def effective_ratio(self, tokens: int, slots: int | None = None) -> float | None:
        raise NotImplementedError

    def compress(self, documents: Sequence[Document], model: Model, done: int = 0) -> Iterator[Block]:
        raise NotImplementedError

    def answer(self, memory: Memory, question: str) -> AnswerSteps:
        return self.steps(memory, question)

    def script(self, sample: Sample, model: Model, style: Style) -> Trace:
        raise NotImplementedError

    def render(self, memory: Memory, call: Call, model: Model) -> Rendered:
        raise NotImplementedError


def echo(
    fail: Callable[[Call], bool] = lambda call: False, slow: Callable[[Call], int] = lambda call: 0
) -> ScriptedPolicy:
    """Answers a call with its text in brackets."""

    def reply(call: Call) -> Reply | Exception:
        if fail(call):
            return ValueError("cannot be rendered")
        text = f"[{text_of(call)}]"
        return Reply(text, tuple(range(len(text))), positions=len(text))

    return ScriptedPolicy(reply, slow)


def text_of(call: Call) -> str:
    (part,) = call.parts
    assert isinstance(part, Text)
    return part.text


def texts(policy: ScriptedPolicy) -> list[list[str]]:
    """What was worked on at each step."""
    return [list(map(text_of, calls)) for calls in policy.batches]


def wanted(text: str, purpose: str = "answer") -> Call:
    return Call(purpose, (Text(text),), Generate(SamplingParams(max_tokens=8)))


def single_call(memory: Memory, question: str) -> AnswerSteps:
    reply = yield from ask(wanted(question))
    return Answer(reply.text)


def note_then_answer(memory: Memory, question: str) -> AnswerSteps:
    note = yield from ask(wanted(question, "note"))
    reply = yield from ask(wanted(f"{question} {note.text}"))
    return Answer(reply.text)


def three_at_once(memory: Memory, question: str) -> AnswerSteps:
    replies = yield from ask_all([wanted(f"{question}{number}", "look") for number in range(3)])
    reply = yield from ask(wanted(" ".join(each.text for each in replies)))
    return Answer(reply.text)


def in_turn(memory: Memory, question: str) -> AnswerSteps:
    """As many calls, one after another, as the question says."""
    for number in range(int(question)):
        yield from ask(wanted(f"{question}.{number}"))
    return Answer(question)


def broken(memory: Memory, question: str) -> AnswerSteps:
    yield from ask(wanted(question))
    raise KeyError("lost")


@pytest.fixture
def memory() -> Memory:
    blocks = [
        Block(0, 0, 0, 30, 0, 0, slots=torch.zeros(2, 1)),
        Block(1, 0, 30, 40, 0, 0, slots=torch.zeros(1, 1)),
    ]
    return Memory("m", "scripted", {}, "", ("a.txt",), blocks)


def finished(
    jobs: Sequence[Job], policy: ScriptedPolicy, max_concurrency: int = 32, on_text: OnText | None = None
) -> list[Trace]:
    """The traces in the order of their jobs."""
    traces = dict(Scheduler(policy, max_concurrency, on_text).run(jobs))
    return [traces[number] for number in range(len(jobs))]


def until_idle(scheduler: Scheduler) -> dict[int, Trace]:
    """The traces of what was submitted."""
    traces: dict[int, Trace] = {}
    while not scheduler.idle:
        traces |= dict(scheduler.step())
    return traces


def test_the_second_call_holds_the_first_reply(memory: Memory) -> None:
    policy = echo()
    trace = answer(Job(Scripted(note_then_answer), memory, "who"), policy)
    calls = [
        Call("note", (Text("who"),), Generate(SamplingParams(max_tokens=8))),
        Call("answer", (Text("who [who]"),), Generate(SamplingParams(max_tokens=8))),
    ]
    assert policy.batches == [[calls[0]], [calls[1]]]
    assert [step.call for step in trace.steps] == calls
    assert [step.reply.text for step in trace.steps] == ["[who]", "[who [who]]"]
    assert trace.answer == Answer("[who [who]]")
    assert (trace.question, trace.system, trace.failure) == ("who", "scripted", None)
    read = {"style": "recall", "chat_template": "flat", "max_tokens": 160, "thinking": 0, "repetition_penalty": 1.0}
    assert trace.settings == {"flavour": "plain"} | read


def test_parallel_calls_go_in_one_batch_and_come_back_in_order(memory: Memory) -> None:
    policy = echo()
    trace = answer(Job(Scripted(three_at_once), memory, "q"), policy)
    parallel = [Call("look", (Text(f"q{number}"),), Generate(SamplingParams(max_tokens=8))) for number in range(3)]
    last = Call("answer", (Text("[q0] [q1] [q2]"),), Generate(SamplingParams(max_tokens=8)))
    assert policy.batches == [parallel, [last]]
    assert [step.call for step in trace.steps] == [*parallel, last]
    assert trace.answer == Answer("[[q0] [q1] [q2]]")


@pytest.mark.parametrize("delays", [(0, 0, 0), (2, 1, 0), (0, 3, 1), (1, 0, 2)])
def test_parallel_calls_keep_their_order_whichever_is_done_first(memory: Memory, delays: tuple[int, ...]) -> None:
    policy = echo(slow=lambda call: delays[int(text_of(call)[1])] if call.purpose == "look" else 0)
    trace = answer(Job(Scripted(three_at_once), memory, "q"), policy)
    assert trace.answer == Answer("[[q0] [q1] [q2]]")
    assert [text_of(step.call) for step in trace.steps] == ["q0", "q1", "q2", "[q0] [q1] [q2]"]
    assert [step.reply.text for step in trace.steps] == ["[q0]", "[q1]", "[q2]", "[[q0] [q1] [q2]]"]
    assert len(policy.batches) == max(delays) + 2


def test_a_tuple_of_one_call_gets_a_tuple_of_one_reply_and_no_calls_get_none(memory: Memory) -> None:
    received: list[object] = []

    def listed(memory: Memory, question: str) -> AnswerSteps:
        received.append((yield ()))
        received.append((yield from ask_all([])))
        received.append((yield (wanted(question),)))
        received.append((yield from ask_all([wanted(question)])))
        return Answer("done")

    policy = echo()
    assert answer(Job(Scripted(listed), memory, "q"), policy).answer == Answer("done")
    reply = Reply("[q]", (0, 1, 2), positions=3)
    assert received == [(), (), (reply,), (reply,)]
    assert policy.batches == [[wanted("q")], [wanted("q")]]


def test_a_system_that_asks_nothing_is_finished_without_the_policy(memory: Memory) -> None:
    policy = echo()
    assert answer(Job(Scripted(in_turn), memory, "0"), policy).answer == Answer("0")
    assert policy.batches == []


def test_costs_are_those_of_the_calls_and_the_memory(memory: Memory) -> None:
    cost = answer(Job(Scripted(three_at_once), memory, "q"), echo()).cost
    assert (cost.calls, cost.document_tokens, cost.slots) == (4, 40, 3)
    assert (cost.positions, cost.generated_tokens) == (len("[[q0] [q1] [q2]]"), 3 * 4 + 16)
    assert cost.effective_ratio == 40 / 16


def test_samples_of_different_systems_share_batches(memory: Memory) -> None:
    policy = echo()
    jobs = [Job(Scripted(single_call), memory, "a"), Job(Scripted(three_at_once), memory, "b")]
    traces = finished(jobs, policy)
    assert policy.batches[0] == [wanted("a"), *(wanted(f"b{number}", "look") for number in range(3))]
    assert [trace.answer for trace in traces] == [Answer("[a]"), Answer("[[b0] [b1] [b2]]")]


def test_waiting_calls_join_at_every_step(memory: Memory) -> None:
    policy = echo(slow=lambda call: 3 if text_of(call) == "a" else 0)
    with Scheduler(policy) as scheduler:
        submitted = [scheduler.submit(Job(Scripted(single_call), memory, "a"))]
        traces = dict(scheduler.step())
        submitted.append(scheduler.submit(Job(Scripted(note_then_answer), memory, "b")))
        traces |= dict(scheduler.step())
        submitted.append(scheduler.submit(Job(Scripted(single_call), memory, "c")))
        traces |= until_idle(scheduler)
    assert submitted == [0, 1, 2]
    assert texts(policy) == [["a"], ["a", "b"], ["a", "b [b]", "c"], ["a"]]
    assert [traces[number].answer for number in submitted] == [Answer("[a]"), Answer("[b [b]]"), Answer("[c]")]


def test_a_quick_call_never_waits_for_a_slow_one(memory: Memory) -> None:
    policy = echo(slow=lambda call: 9 if text_of(call) == "slow" else 0)
    jobs = [Job(Scripted(single_call), memory, "slow"), *(Job(Scripted(in_turn), memory, str(n)) for n in (1, 2, 5))]
    order = [number for number, _ in Scheduler(policy).run(jobs)]
    assert order == [1, 2, 3, 0]
    assert texts(policy) == [
        ["slow", "1.0", "2.0", "5.0"],
        ["slow", "2.1", "5.1"],
        ["slow", "5.2"],
        ["slow", "5.3"],
        ["slow", "5.4"],
        *[["slow"]] * 5,
    ]


def test_a_slow_sample_takes_one_place_only_and_the_others_are_refilled(memory: Memory) -> None:
    policy = echo(slow=lambda call: 4 if text_of(call) == "slow" else 0)
    jobs = [Job(Scripted(single_call), memory, question) for question in ("slow", "a", "b", "c", "d", "e")]
    assert [number for number, _ in Scheduler(policy, 2).run(jobs)] == [1, 2, 3, 4, 0, 5]
    assert texts(policy) == [["slow", "a"], ["slow", "b"], ["slow", "c"], ["slow", "d"], ["slow", "e"]]


def test_a_scheduler_is_idle_only_when_all_is_done(memory: Memory) -> None:
    policy = echo()
    with Scheduler(policy, 2) as scheduler:
        assert scheduler.idle
        assert scheduler.has_room
        for question in "abc":
            scheduler.submit(Job(Scripted(single_call), memory, question))
        assert not scheduler.idle
        assert not scheduler.has_room
        assert [number for number, _ in scheduler.step()] == [0, 1]
        assert not scheduler.idle
        assert scheduler.has_room
        assert [number for number, _ in scheduler.step()] == [2]
        assert scheduler.idle
        assert scheduler.step() == []
    assert len(policy.batches) == 2


def test_a_run_that_is_left_early_closes_its_work(memory: Memory) -> None:
    policy = echo()
    run = Scheduler(policy, 1).run(Job(Scripted(single_call), memory, question) for question in "abc")
    assert next(run)[1].answer == Answer("[a]")
    assert not policy.executions[0].closed
    run.close()  # type: ignore[attr-defined]
    assert policy.executions[0].closed
    assert texts(policy) == [["a"]]


def test_a_failing_system_is_recorded_on_its_own_trace(memory: Memory) -> None:
    def at_once(memory: Memory, question: str) -> AnswerSteps:
        raise CallError("reward", "no judge")
        yield ()

    def nothing(memory: Memory, question: str) -> AnswerSteps:
        yield from ask(wanted(question))
        return None  # type: ignore[return-value]

    systems = (single_call, broken, at_once, nothing, note_then_answer)
    jobs = [Job(Scripted(steps), memory, f"q{number}") for number, steps in enumerate(systems)]
    traces = finished(jobs, echo())
    assert [trace.failure for trace in traces] == [
        None,
        Failure("system", "KeyError", "'lost'"),
        Failure("reward", "CallError", "no judge"),
        Failure("system", "CallError", "answer() returned None; it must return an Answer"),
        None,
    ]
    assert [str(trace.failure) for trace in traces if trace.failure is not None] == [
        "system: KeyError: 'lost'",
        "reward: no judge",
        "system: answer() returned None; it must return an Answer",
    ]
    assert [trace.answer for trace in traces] == [Answer("[q0]"), None, None, None, Answer("[q4 [q4]]")]
    assert [len(trace.steps) for trace in traces] == [1, 1, 0, 1, 2]


def test_a_call_that_cannot_be_made_ends_its_own_sample_only(memory: Memory) -> None:
    closed: list[str] = []

    def careful(memory: Memory, question: str) -> AnswerSteps:
        try:
            return (yield from note_then_answer(memory, question))
        finally:
            closed.append(question)

    policy = echo(fail=lambda call: text_of(call).startswith("bad ["))
    traces = finished([Job(Scripted(careful), memory, question) for question in ("good", "bad")], policy)
    assert [trace.failure for trace in traces] == [None, Failure("policy", "ValueError", "cannot be rendered")]
    assert str(traces[1].failure) == "policy: ValueError: cannot be rendered"
    assert [trace.answer for trace in traces] == [Answer("[good [good]]"), None]
    assert [step.call for step in traces[1].steps] == [wanted("bad", "note")]
    assert sorted(closed) == ["bad", "good"]


@pytest.mark.parametrize(
    ("error", "raised", "boundary"),
    [
        (DataError("it holds no text"), DataError, "policy"),
        (ConfigError("no such adapter"), ConfigError, "policy"),
        (ValueError("no number"), CallError, "policy"),
        (CallError("judge", "no verdict"), CallError, "judge"),
    ],
)
def test_a_failure_says_what_failed_and_raises_it_again(
    memory: Memory, error: Exception, raised: type[MemfoldError], boundary: str
) -> None:
    trace = answer(Job(Scripted(single_call), memory, "q"), ScriptedPolicy(lambda call: error))
    message = error.message if isinstance(error, CallError) else str(error)
    assert trace.failure == Failure(boundary, type(error).__name__, message)
    again = trace.failure.exception()
    assert type(again) is raised
    if not isinstance(again, CallError):
        assert str(again) == str(error)
    elif isinstance(error, CallError):
        assert (again.boundary, again.message) == (error.boundary, error.message)
    else:
        assert (again.boundary, again.message) == ("policy", "ValueError: no number")


def test_an_empty_question_fails_before_its_system_begins(memory: Memory) -> None:
    policy = echo()
    traces = finished([Job(Scripted(single_call), memory, question) for question in (" \n", "fine")], policy)
    assert traces[0].failure == Failure("scheduler", "DataError", "the question is empty; ask something")
    assert traces[1].answer == Answer("[fine]")
    assert texts(policy) == [["fine"]]


def test_of_parallel_calls_one_that_fails_ends_the_others(memory: Memory) -> None:
    policy = echo(
        fail=lambda call: text_of(call) == "bad1",
        slow=lambda call: {"bad0": 5, "bad1": 1, "other": 3}.get(text_of(call), 0),
    )
    closed: list[str] = []

    def careful(memory: Memory, question: str) -> AnswerSteps:
        try:
            return (yield from three_at_once(memory, question))
        finally:
            closed.append(question)

    jobs = [Job(Scripted(careful), memory, "bad"), Job(Scripted(single_call), memory, "other")]
    order: list[int] = []
    for number, trace in Scheduler(policy).run(jobs):
        order.append(number)
        if number == 0:
            assert trace.failure == Failure("policy", "ValueError", "cannot be rendered")
            assert (trace.steps, trace.answer, closed) == ((), None, ["bad"])
        else:
            assert (trace.failure, trace.answer) == (None, Answer("[other]"))
    assert order == [0, 1]
    assert texts(policy) == [
        ["bad0", "bad1", "bad2", "other"],
        ["bad0", "bad1", "other"],
        ["bad0", "other"],  # the step at which it is cancelled
        ["other"],
    ]


def test_of_parallel_calls_that_fail_together_the_first_is_recorded(memory: Memory) -> None:
    policy = ScriptedPolicy(lambda call: DataError(text_of(call)))
    order = []
    for number, trace in Scheduler(policy).run([Job(Scripted(three_at_once), memory, "q")]):
        order.append(number)
        assert trace.failure == Failure("policy", "DataError", "q0")
        assert (trace.steps, trace.answer) == ((), None)
    assert order == [0]
    assert texts(policy) == [["q0", "q1", "q2"]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=14), st.integers(1, 6))
def test_places_are_refilled_as_samples_finish_and_never_exceeded(lengths: list[int], max_concurrency: int) -> None:
    empty = Memory("m", "scripted", {}, "", (), [])
    policy, pulled = echo(), 0

    def jobs() -> Iterator[Job]:
        nonlocal pulled
        for length in lengths:
            pulled += 1
            yield Job(Scripted(in_turn), empty, str(length))

    traces: dict[int, Trace] = {}
    for number, trace in Scheduler(policy, max_concurrency).run(jobs()):
        assert pulled - len(traces) <= max_concurrency
        traces[number] = trace
    assert [traces[number].answer for number in range(len(lengths))] == [Answer(str(length)) for length in lengths]
    waiting, running, expected = list(lengths), list[int](), list[int]()
    while waiting or running:
        while waiting and len(running) < max_concurrency:
            running.append(waiting.pop(0))
        expected.append(len(running))
        running = [left - 1 for left in running if left > 1]
    assert policy.rounds == expected


@pytest.mark.parametrize("steps", [note_then_answer, three_at_once, in_turn])
@pytest.mark.parametrize("kept", [0, 1, 2, 3, 4])
def test_recorded_steps_are_fed_back_without_asking_again(memory: Memory, steps: Steps, kept: int) -> None:
    job = Job(Scripted(steps), memory, "4")
    whole = answer(job, echo())
    policy = echo()
    again = answer(replace(job, recorded=whole.steps[:kept]), policy)
    assert (again.steps, again.answer, again.failure) == (whole.steps, whole.answer, None)
    assert policy.calls == [step.call for step in whole.steps[kept:]]


@pytest.mark.parametrize("missing", [(0,), (1,), (0, 2), (1, 3), (0, 1, 2)])
def test_only_the_missing_ones_of_parallel_calls_are_made(memory: Memory, missing: tuple[int, ...]) -> None:
    job = Job(Scripted(three_at_once), memory, "q")
    whole = answer(job, echo())
    recorded = tuple(None if number in missing else step for number, step in enumerate(whole.steps))
    policy = echo()
    again = answer(replace(job, recorded=recorded), policy)
    assert (again.steps, again.answer) == (whole.steps, whole.answer)
    assert policy.calls == [whole.steps[number].call for number in missing]


def test_every_step_is_told_once_as_soon_as_it_has_a_reply(memory: Memory) -> None:
    """Of parallel calls, the quick ones first; recorded steps before those that are made."""
    told: list[tuple[int, int, Step]] = []
    policy = echo(slow=lambda call: 2 if text_of(call) == "q0" else 0)
    job = Job(Scripted(three_at_once), memory, "q")
    whole = answer(job, policy, on_step=lambda *step: told.append(step))
    assert told == [(0, number, whole.steps[number]) for number in (1, 2, 0, 3)]
    told.clear()
    recorded = (None, whole.steps[1])
    answer(replace(job, recorded=recorded), policy, on_step=lambda *step: told.append(step))
    assert told == [(0, number, whole.steps[number]) for number in (1, 2, 0, 3)]
    told.clear()
    jobs = [Job(Scripted(single_call), memory, question) for question in "ab"]
    traces = dict(Scheduler(echo(), 1, on_step=lambda *step: told.append(step)).run(jobs))
    assert told == [(number, 0, traces[number].steps[0]) for number in (0, 1)]


def test_an_error_of_what_is_told_ends_the_run_and_frees_the_policy(memory: Memory) -> None:
    def full(number: int, index: int, step: Step) -> None:
        raise DataError("the disk is full")

    policy = echo()
    with pytest.raises(DataError, match="the disk is full"):
        answer(Job(Scripted(note_then_answer), memory, "q"), policy, on_step=full)
    assert len(policy.calls) == 1
    assert policy.executions[0].closed


def test_recorded_steps_of_another_run_are_an_error_on_their_trace(memory: Memory) -> None:
    system = Scripted(note_then_answer)
    other = answer(Job(system, memory, "other"), echo()).steps
    half = answer(Job(Scripted(three_at_once), memory, "other"), echo()).steps[:1]
    policy = echo()
    jobs = [
        Job(system, memory, "q", recorded=other),
        Job(Scripted(three_at_once), memory, "q", recorded=half),
        Job(system, memory, "fine"),
    ]
    traces = finished(jobs, policy)
    failure = diverged(0)
    assert [trace.failure for trace in traces] == [failure, failure, None]
    assert isinstance(failure.exception(), DataError)
    assert str(failure.exception()).startswith("call 1 differs from the recorded one; repeat what was recorded")
    assert traces[2].answer == Answer("[fine [fine]]")
    assert set(map(text_of, policy.calls)) == {"fine", "fine [fine]"}


def test_a_resumed_reply_is_used_as_recorded(memory: Memory) -> None:
    recorded = (Step(wanted("q", "note"), Reply("from before")),)
    trace = answer(Job(Scripted(note_then_answer), memory, "q", recorded=recorded), echo())
    assert trace.answer == Answer("[q from before]")


def test_a_wholly_recorded_job_is_answered_without_the_policy(memory: Memory) -> None:
    job = Job(Scripted(three_at_once), memory, "q")
    whole = answer(job, echo())
    policy = echo()
    again = answer(replace(job, recorded=whole.steps), policy)
    assert (again.steps, again.answer) == (whole.steps, whole.answer)
    assert policy.batches == []


def test_a_job_brings_the_sampling_parameters_of_its_calls(memory: Memory) -> None:
    def sampling(call: Call, number: int) -> SamplingParams:
        return replace(call.sampling, temperature=0.5, seed=number)

    policy = echo()
    job = Job(Scripted(three_at_once), memory, "q", sampling)
    trace = answer(job, policy)
    expected = [SamplingParams(max_tokens=8, temperature=0.5, seed=number) for number in range(4)]
    assert [call.sampling for call in policy.calls] == expected
    assert [step.call.sampling for step in trace.steps] == expected
    resumed = echo()
    again = answer(replace(job, recorded=trace.steps[:3]), resumed)
    assert (again.steps, again.answer) == (trace.steps, trace.answer)
    assert [call.sampling.seed for call in resumed.calls] == [3]


def test_a_call_that_wants_no_sampled_reply_keeps_what_it_wants(memory: Memory) -> None:
    gate = Call("gate", (Text("open?"),), HeadScore("gate"))

    def gated(memory: Memory, question: str) -> AnswerSteps:
        reply = yield from ask(gate)
        return Answer(str(reply.score))

    job = Job(Scripted(gated), memory, "q", lambda call, number: SamplingParams(temperature=1.0))
    trace = answer(job, ScriptedPolicy(lambda call: Reply(score=0.25)))
    assert trace.steps == (Step(gate, Reply(score=0.25)),)
    assert trace.answer == Answer("0.25")


def test_another_way_of_asking_stands_in_for_the_systems_own(memory: Memory) -> None:
    policy = echo()
    trace = answer(Job(Scripted(single_call), memory, "q", ask=note_then_answer), policy)
    assert trace.answer == Answer("[q [q]]")
    assert trace.system == "scripted"
    assert texts(policy) == [["q"], ["q [q]"]]


def test_only_answers_are_streamed_each_to_its_own_job(memory: Memory) -> None:
    streams: dict[int, str] = {}

    def listen(number: int, text: str) -> None:
        streams[number] = streams.get(number, "") + text

    jobs = [
        Job(Scripted(note_then_answer), memory, "a"),
        Job(Scripted(three_at_once), memory, "b"),
        Job(Scripted(single_call), memory, "c"),
    ]
    traces = finished(jobs, echo(), max_concurrency=2, on_text=listen)
    assert streams == {0: "[a [a]]", 1: "[[b0] [b1] [b2]]", 2: "[c]"}
    assert all(trace.cost.first_token_seconds > 0 for trace in traces)


def test_streams_of_slow_calls_are_told_apart_as_they_are_written(memory: Memory) -> None:
    pieces: list[tuple[int, str]] = []
    policy = echo(slow=lambda call: {"aa": 1, "b": 2}.get(text_of(call), 0))
    jobs = [Job(Scripted(single_call), memory, question) for question in ("aa", "b", "c")]
    finished(jobs, policy, on_text=lambda number, text: pieces.append((number, text)))
    assert pieces == [(0, "[a"), (1, "["), (2, "[c]"), (0, "a]"), (1, "b"), (1, "]")]


def test_an_answer_that_no_call_wrote_is_shown_as_a_whole(memory: Memory) -> None:
    def noted(memory: Memory, question: str) -> AnswerSteps:
        yield from ask(wanted(question, "note"))
        return Answer("short", "the whole reply")

    def listening(job: Job) -> list[str]:
        pieces: list[str] = []
        answer(job, echo(), pieces.append)
        return pieces

    assert listening(Job(Scripted(noted), memory, "q")) == ["the whole reply"]
    whole = answer(Job(Scripted(single_call), memory, "q"), echo())
    assert listening(Job(Scripted(single_call), memory, "q", recorded=whole.steps)) == []


def test_the_first_token_of_a_note_is_not_that_of_the_answer(memory: Memory) -> None:
    def noted(memory: Memory, question: str) -> AnswerSteps:
        yield from ask(wanted(question, "note"))
        return Answer("from the note")

    assert answer(Job(Scripted(noted), memory, "q"), echo()).cost.first_token_seconds == 0.0


def test_a_cancelled_job_ends_and_frees_its_place(memory: Memory) -> None:
    policy = echo(slow=lambda call: 100 if text_of(call) == "b" else 0)
    with Scheduler(policy, 2) as scheduler:
        numbers = [scheduler.submit(Job(Scripted(single_call), memory, question)) for question in "abcd"]
        scheduler.cancel(1)
        traces = until_idle(scheduler)
    assert [traces[number].steps[0].reply.finish for number in numbers] == ["stop", "cancelled", "stop", "stop"]
    answers = [traces[number].answer for number in numbers]
    assert answers == [Answer("[a]"), Answer(""), Answer("[c]"), Answer("[d]")]
    assert policy.batches == [[wanted("a"), wanted("b")], [wanted("c"), wanted("d")]]


def test_a_job_is_cancelled_in_the_middle_of_its_reply(memory: Memory) -> None:
    pieces: dict[int, str] = {}

    def listen(number: int, text: str) -> None:
        pieces[number] = pieces.get(number, "") + text

    policy = echo(slow=lambda call: 11 if text_of(call) == "0123456789" else 0)
    with Scheduler(policy, 1, listen) as scheduler:
        scheduler.submit(Job(Scripted(single_call), memory, "0123456789"))
        scheduler.submit(Job(Scripted(single_call), memory, "next"))
        assert [scheduler.step() for _ in range(4)] == [[]] * 4
        scheduler.cancel(0)
        ((number, trace),) = scheduler.step()
        assert (number, trace.answer, trace.failure) == (0, Answer("[012"), None)
        assert trace.steps[0].reply == Reply("[012", finish="cancelled")
        assert until_idle(scheduler)[1].answer == Answer("[next]")
    assert pieces == {0: "[012", 1: "[next]"}
    assert texts(policy) == [["0123456789"]] * 5 + [["next"]]


def test_all_calls_of_a_job_are_cancelled_also_those_still_to_come(memory: Memory) -> None:
    policy = echo(slow=lambda call: 100 if call.purpose == "look" else 0)
    with Scheduler(policy) as scheduler:
        scheduler.submit(Job(Scripted(three_at_once), memory, "q"))
        scheduler.submit(Job(Scripted(single_call), memory, "other"))
        assert [(number, trace.answer) for number, trace in scheduler.step()] == [(1, Answer("[other]"))]
        scheduler.cancel(0)
        (trace,) = until_idle(scheduler).values()
    assert len(policy.batches) == 3
    assert [step.reply.finish for step in trace.steps] == ["cancelled"] * 4
    assert trace.answer == Answer("")


def test_cancelling_what_does_not_run_changes_nothing(memory: Memory) -> None:
    with Scheduler(echo()) as scheduler:
        scheduler.submit(Job(Scripted(single_call), memory, "a"))
        ((_, trace),) = scheduler.step()
        scheduler.cancel(0)
        scheduler.cancel(1)  # not submitted yet
        scheduler.submit(Job(Scripted(single_call), memory, "b"))
        ((number, other),) = scheduler.step()
    assert (trace.answer, number, other.answer) == (Answer("[a]"), 1, Answer("[b]"))


def test_calls_without_a_question_are_completed_in_their_order(memory: Memory) -> None:
    policy = echo(slow=lambda call: 2 if text_of(call) == "a" else 0)
    requests = [Request(Scripted(single_call), memory, wanted(text)) for text in "abc"]
    assert [reply.text for reply in complete(policy, requests)] == ["[a]", "[b]", "[c]"]
    assert texts(policy) == [["a", "b", "c"], ["a"], ["a"]]
    assert policy.executions[0].closed


def test_a_completed_call_ends_when_its_text_is_enough(memory: Memory) -> None:
    policy = echo(slow=lambda call: 9)
    requests = [Request(Scripted(single_call), memory, wanted(text)) for text in ("stop here", "all of it")]
    replies = complete(policy, requests, lambda request, text: request is requests[0] and len(text) >= 4)
    assert [(reply.text, reply.finish) for reply in replies] == [("[sto", "cancelled"), ("[all of it]", "stop")]


def test_a_completed_call_that_fails_raises_its_own_error(memory: Memory) -> None:
    policy = ScriptedPolicy(lambda call: DataError("it holds no text"), lambda call: 1)
    with pytest.raises(DataError, match=r"^it holds no text$"):
        complete(policy, [Request(Scripted(single_call), memory, wanted("q"))])
    assert policy.executions[0].closed


# Jobs that share replies.


def sharing(count: int, steps: Steps = note_then_answer, **changes: Any) -> list[Job]:
    """Jobs about the same question."""
    shared = SharedReplies()
    return [Job(Scripted(steps), EMPTY, "q", shared=shared, **changes) for _ in range(count)]


@pytest.mark.parametrize("max_concurrency", [1, 2, 9])
def test_equal_calls_of_sharing_jobs_are_made_once(max_concurrency: int) -> None:
    policy, alone = echo(slow=lambda call: 2), echo()
    traces = finished(sharing(3), policy, max_concurrency)
    (expected,) = finished([Job(Scripted(note_then_answer), EMPTY, "q")], alone)
    assert [(trace.steps, trace.answer) for trace in traces] == [(expected.steps, expected.answer)] * 3
    assert [call.purpose for call in policy.calls].count("note") == 1
    assert [call.purpose for call in policy.calls].count("answer") == 3, "answers are streamed, each to its job"
    assert [trace.cost.calls for trace in traces] == [2, 1, 1]
    written = sum(trace.cost.generated_tokens for trace in traces)
    assert written == len("[q]") + 3 * len("[q [q]]")


def test_sampled_replies_are_not_shared() -> None:
    policy = echo()
    finished(sharing(3, sampling=lambda call, number: SamplingParams(8, temperature=1.0)), policy)
    assert len(policy.calls) == 6


def test_equal_calls_of_one_job_are_all_made() -> None:
    def twice(memory: Memory, question: str) -> AnswerSteps:
        first, second = yield from ask_all([wanted(question, "look")] * 2)
        return Answer(first.text + second.text)

    policy = echo(slow=lambda call: 1)
    traces = finished(sharing(2, twice), policy)
    assert [trace.answer for trace in traces] == [Answer("[q][q]")] * 2
    assert 2 <= len(policy.calls) <= 3


def test_a_call_that_fails_for_one_fails_for_those_that_wait_and_is_made_again_later() -> None:
    policy = echo(fail=lambda call: True, slow=lambda call: 1)
    traces = finished(sharing(3), policy, 2)
    assert [str(trace.failure) for trace in traces] == ["policy: ValueError: cannot be rendered"] * 3
    assert len(policy.calls) == 2


def test_recorded_replies_are_shared_too() -> None:
    (expected,) = finished([Job(Scripted(note_then_answer), EMPTY, "q")], echo())
    first, second = sharing(2)
    policy = echo()
    traces = finished([replace(first, recorded=expected.steps[:1]), second], policy)
    assert [trace.steps for trace in traces] == [expected.steps] * 2
    assert [call.purpose for call in policy.calls] == ["answer", "answer"]


@pytest.mark.parametrize("cancelled", [(0,), (1,), (0, 1)], ids=str)
def test_a_shared_reply_is_cut_off_only_if_no_job_waits_for_it(cancelled: tuple[int, ...]) -> None:
    scheduler = Scheduler(echo(slow=lambda call: 5))
    for job in sharing(2):
        scheduler.submit(job)
    scheduler.step()
    scheduler.step()
    for number in cancelled:
        scheduler.cancel(number)
    traces = until_idle(scheduler)
    notes = [traces[number].steps[0].reply.finish for number in (0, 1)]
    assert notes == ["cancelled"] * 2 if cancelled == (0, 1) else notes == ["stop"] * 2
    for number in (0, 1):
        ended = "cancelled" if number in cancelled else "stop"
        assert traces[number].steps[-1].reply.finish == ended


def test_jobs_in_a_row_about_a_memory_read_it_together_as_many_as_their_system_does(memory: Memory) -> None:
    class Together(Scripted):
        said: tuple[str, ...] = ()

        @property
        def capabilities(self) -> Capabilities:
            return Capabilities(questions=3)

        def about(self, questions: Sequence[str]) -> Together:
            made = Together(self.steps)
            made.said = tuple(questions)
            return made

    system = Together(single_call)
    jobs = [Job(system, memory, f"q{number}") for number in range(4)]
    jobs += [Job(system, EMPTY, "q4"), Job(Scripted(single_call), EMPTY, "q5"), Job(Scripted(single_call), EMPTY, "q6")]
    together = list(reading_together(jobs))
    assert [job.question for job in together] == [job.question for job in jobs]
    said = [getattr(job.system, "said", None) for job in together]
    assert said == [("q0", "q1", "q2")] * 3 + [(), (), None, None]
    assert together[0].shared is together[1].shared is together[2].shared is not None
    assert [job.shared for job in together[3:]] == [None] * 4


@dataclass(frozen=True)
class Round:
    """Parallel calls of a random system, and what they lead to."""

    purposes: tuple[str, ...]
    refused: bool = False
    raises: bool = False


@dataclass(frozen=True)
class Program:
    """A random system: rounds of calls whose text depends on all replies before."""

    rounds: tuple[Round, ...]
    answers: bool = True
    log: list[str] = field(default_factory=list, compare=False)

    def __call__(self, memory: Memory, question: str) -> AnswerSteps:
        said = question
        try:
            for part in self.rounds:
                purposes = enumerate(part.purposes)
                calls = [wanted(f"{said}/{number}{'!' * part.refused}", purpose) for number, purpose in purposes]
                replies = yield from ask_all(calls)
                said = "".join(reply.text for reply in replies)[-40:]
                if part.raises:
                    raise DataError(said)
            return Answer(said[:3], said) if self.answers else None  # type: ignore[return-value]
        finally:
            self.log.append(question)


PURPOSES = st.lists(st.sampled_from(["look", "answer"]), max_size=4).map(tuple)
ROUNDS = st.builds(Round, PURPOSES, st.sampled_from([False] * 9 + [True]), st.sampled_from([False] * 9 + [True]))
PROGRAMS = st.builds(Program, st.lists(ROUNDS, max_size=5).map(tuple), st.sampled_from([True, True, False]))


def random_reply(call: Call) -> str:
    if text_of(call).endswith("!"):
        raise LookupError("refused")
    return f"<{text_of(call)[::-1]}|{call.purpose[0]}>"


def one_call_at_a_time(program: Program, question: str) -> tuple[tuple[Step, ...], Answer | None, str | None]:
    """Steps, answer and failure of a system whose calls are made one by one."""
    generator, steps, replies = program(EMPTY, question), list[Step](), None
    try:
        while True:
            calls = generator.send(replies)  # type: ignore[arg-type]
            try:
                replies = tuple(Reply(random_reply(call)) for call in calls)
            except LookupError as error:
                generator.close()
                return tuple(steps), None, f"policy: LookupError: {error}"
            steps += [Step(call, reply) for call, reply in zip(calls, replies, strict=True)]
    except StopIteration as stop:
        ended = "system: answer() returned None; it must return an Answer" if stop.value is None else None
        return tuple(steps), stop.value, ended
    except DataError as error:
        return tuple(steps), None, f"system: DataError: {error}"


EMPTY = Memory("m", "scripted", {}, "", (), [])


@settings(max_examples=200, deadline=None)
@given(st.lists(PROGRAMS, min_size=1, max_size=8), st.integers(1, 9), st.randoms(use_true_random=False), st.data())
def test_results_are_those_of_one_call_at_a_time(
    programs: list[Program], max_concurrency: int, random: Random, data: st.DataObject
) -> None:
    shared = SharedReplies() if data.draw(st.booleans(), label="shared") else None
    questions = [f"q{number}" if shared is None else "q" for number in range(len(programs))]
    expected = [one_call_at_a_time(program, question) for program, question in zip(programs, questions, strict=True)]
    kept = [data.draw(st.integers(0, len(steps)), label="recorded") for steps, _, _ in expected]
    jobs = [
        Job(Scripted(program), EMPTY, question, recorded=expected[number][0][: kept[number]], shared=shared)
        for number, (program, question) in enumerate(zip(programs, questions, strict=True))
    ]
    streams: dict[int, list[str]] = {number: [] for number in range(len(jobs))}
    policy = ScriptedPolicy(random_reply, lambda call: random.choice((0, 0, 1, 2, 7)))
    traces = finished(jobs, policy, max_concurrency, lambda number, text: streams[number].append(text))
    results = [(trace.steps, trace.answer, None if trace.failure is None else str(trace.failure)) for trace in traces]
    assert results == expected
    assert [len(program.log) for program in programs] == [2] * len(programs), "every generator has ended"
    for number, (steps, reply, _) in enumerate(expected):
        streamed = [step.reply.text for step in steps[kept[number] :] if step.call.purpose == "answer"]
        if reply is not None and len(streamed) <= 1 and kept[number] == 0:
            assert "".join(streams[number]) == (streamed[0] if streamed else reply.reply)
