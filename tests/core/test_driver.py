from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memfold.core.document import Document
from memfold.core.errors import CallError
from memfold.core.prompt import Style
from memfold.core.scheduler import Job, answer, run
from memfold.core.system import AnswerSteps, MemorySystem, Rendered
from memfold.core.types import Answer, Block, Call, Memory, Reply, Sample, SamplingParams, Step, Text, Trace

Steps = Callable[[Memory, str], AnswerSteps]
Request = tuple[MemorySystem, Memory, Call]


@dataclass
class Scripted:
    """A system whose logic is handed in."""

    steps: Steps
    name: str = "scripted"
    settings: dict[str, Any] = field(default_factory=lambda: {"flavour": "plain"})

    def effective_ratio(self, tokens: int) -> float | None:
        raise NotImplementedError

    def compress(self, documents: Sequence[Document], backbone: Any, done: int = 0) -> Iterator[Block]:
        raise NotImplementedError

    def answer(self, memory: Memory, question: str) -> AnswerSteps:
        return self.steps(memory, question)

    def script(self, sample: Sample, backbone: Any, style: Style) -> Trace:
        raise NotImplementedError

    def render(self, memory: Memory, call: Call, backbone: Any) -> Rendered:
        raise NotImplementedError


@dataclass
class Echo:
    """A policy that answers a call with its text in brackets and remembers every batch."""

    batches: list[list[Call]] = field(default_factory=list)
    fail: Callable[[Call], bool] = lambda call: False

    def generate(self, requests: Sequence[Request], on_token: Callable[[int, str], None] | None = None,
                 cancel: Callable[[int], bool] | None = None) -> list[Reply | Exception]:  # fmt: skip
        self.batches.append([call for _, _, call in requests])
        return [self._reply(row, call, on_token, cancel) for row, (_, _, call) in enumerate(requests)]

    def _reply(self, row: int, call: Call, on_token: Callable[[int, str], None] | None,
               cancel: Callable[[int], bool] | None) -> Reply | Exception:  # fmt: skip
        if self.fail(call):
            return ValueError("cannot be rendered")
        if cancel is not None and cancel(row):
            return Reply(finish="cancelled")
        text = f"[{said(call)}]"
        if on_token is not None:
            for character in text:
                on_token(row, character)
        return Reply(text, tuple(range(len(text))), positions=len(text))


def said(call: Call) -> str:
    (part,) = call.parts
    assert isinstance(part, Text)
    return part.text


def ask(text: str, purpose: str = "answer") -> Call:
    return Call(purpose, (Text(text),), SamplingParams(max_tokens=8))


def one(memory: Memory, question: str) -> AnswerSteps:
    reply = yield ask(question)
    assert isinstance(reply, Reply)
    return Answer(reply.text)


def note_then_answer(memory: Memory, question: str) -> AnswerSteps:
    note = yield ask(question, "note")
    assert isinstance(note, Reply)
    reply = yield ask(f"{question} {note.text}")
    assert isinstance(reply, Reply)
    return Answer(reply.text)


def three_at_once(memory: Memory, question: str) -> AnswerSteps:
    replies = yield [ask(f"{question}{number}", "look") for number in range(3)]
    assert isinstance(replies, list)
    reply = yield ask(" ".join(each.text for each in replies))
    assert isinstance(reply, Reply)
    return Answer(reply.text)


def in_turn(memory: Memory, question: str) -> AnswerSteps:
    """As many calls, one after another, as the question says."""
    for number in range(int(question)):
        yield ask(f"{question}.{number}")
    return Answer(question)


def broken(memory: Memory, question: str) -> AnswerSteps:
    yield ask(question)
    raise KeyError("lost")


@pytest.fixture
def memory() -> Memory:
    blocks = [Block(0, 0, 0, 30, 0, 0, starts=(0, 16)), Block(1, 0, 30, 40, 0, 0, starts=(30,))]
    return Memory("m", "scripted", {}, "", ("a.txt",), blocks)


def finished(jobs: Sequence[Job], policy: Echo, **options: Any) -> list[Trace]:
    """The traces in the order of their jobs."""
    return [trace for _, trace in sorted(run(jobs, policy, **options), key=lambda pair: pair[0])]


def test_the_second_call_holds_the_first_reply(memory: Memory) -> None:
    policy = Echo()
    trace = answer(Job(Scripted(note_then_answer), memory, "who"), policy)
    calls = [
        Call("note", (Text("who"),), SamplingParams(max_tokens=8)),
        Call("answer", (Text("who [who]"),), SamplingParams(max_tokens=8)),
    ]
    assert policy.batches == [[calls[0]], [calls[1]]]
    assert [step.call for step in trace.steps] == calls
    assert [step.reply.text for step in trace.steps] == ["[who]", "[who [who]]"]
    assert trace.answer == Answer("[who [who]]")
    assert (trace.question, trace.system, trace.settings, trace.failure) == (
        "who", "scripted", {"flavour": "plain"}, None,
    )  # fmt: skip


def test_parallel_calls_go_in_one_batch_and_come_back_in_order(memory: Memory) -> None:
    policy = Echo()
    trace = answer(Job(Scripted(three_at_once), memory, "q"), policy)
    parallel = [Call("look", (Text(f"q{number}"),), SamplingParams(max_tokens=8)) for number in range(3)]
    last = Call("answer", (Text("[q0] [q1] [q2]"),), SamplingParams(max_tokens=8))
    assert policy.batches == [parallel, [last]]
    assert [step.call for step in trace.steps] == [*parallel, last]
    assert trace.answer == Answer("[[q0] [q1] [q2]]")


def test_a_list_of_one_call_gets_a_list_of_one_reply_and_no_calls_get_none(memory: Memory) -> None:
    received: list[object] = []

    def listed(memory: Memory, question: str) -> AnswerSteps:
        received.append((yield []))
        received.append((yield [ask(question)]))
        return Answer("done")

    policy = Echo()
    assert answer(Job(Scripted(listed), memory, "q"), policy).answer == Answer("done")
    assert received == [[], [Reply("[q]", (0, 1, 2), positions=3)]]
    assert policy.batches == [[ask("q")]]


def test_a_system_that_asks_nothing_is_finished_without_the_policy(memory: Memory) -> None:
    policy = Echo()
    assert answer(Job(Scripted(in_turn), memory, "0"), policy).answer == Answer("0")
    assert policy.batches in ([], [[]])


def test_costs_are_those_of_the_calls_and_the_memory(memory: Memory) -> None:
    cost = answer(Job(Scripted(three_at_once), memory, "q"), Echo()).cost
    assert (cost.calls, cost.document_tokens, cost.slots) == (4, 40, 3)
    assert (cost.positions, cost.generated_tokens) == (len("[[q0] [q1] [q2]]"), 3 * 4 + 16)
    assert cost.effective_ratio == 40 / 16


def test_samples_of_different_systems_share_batches(memory: Memory) -> None:
    policy = Echo()
    jobs = [Job(Scripted(one), memory, "a"), Job(Scripted(three_at_once), memory, "b")]
    traces = finished(jobs, policy)
    assert policy.batches[0] == [ask("a"), *(ask(f"b{number}", "look") for number in range(3))]
    assert [trace.answer for trace in traces] == [Answer("[a]"), Answer("[[b0] [b1] [b2]]")]


def test_a_failing_system_is_recorded_on_its_own_trace(memory: Memory) -> None:
    def at_once(memory: Memory, question: str) -> AnswerSteps:
        raise CallError("reward", "no judge")
        yield ask(question)

    def nothing(memory: Memory, question: str) -> AnswerSteps:
        yield ask(question)
        return None  # type: ignore[return-value]

    systems = (one, broken, at_once, nothing, note_then_answer)
    jobs = [Job(Scripted(steps), memory, f"q{number}") for number, steps in enumerate(systems)]
    traces = finished(jobs, Echo())
    assert [trace.failure for trace in traces] == [
        None,
        "system: KeyError: 'lost'",
        "reward: no judge",
        "system: it ended without an answer",
        None,
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

    policy = Echo(fail=lambda call: said(call).startswith("bad ["))
    traces = finished([Job(Scripted(careful), memory, question) for question in ("good", "bad")], policy)
    assert [trace.failure for trace in traces] == [None, "policy: ValueError: cannot be rendered"]
    assert [trace.answer for trace in traces] == [Answer("[good [good]]"), None]
    assert [step.call for step in traces[1].steps] == [ask("bad", "note")]
    assert sorted(closed) == ["bad", "good"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=14), st.integers(1, 6))
def test_places_are_refilled_as_samples_finish_and_never_exceeded(lengths: list[int], places: int) -> None:
    empty = Memory("m", "scripted", {}, "", (), [])
    policy, pulled = Echo(), 0

    def jobs() -> Iterator[Job]:
        nonlocal pulled
        for length in lengths:
            pulled += 1
            yield Job(Scripted(in_turn), empty, str(length))

    found: dict[int, Trace] = {}
    for number, trace in run(jobs(), policy, places):
        assert pulled - len(found) <= places
        found[number] = trace
    assert [found[number].answer for number in range(len(lengths))] == [Answer(str(length)) for length in lengths]
    waiting, running, expected = list(lengths), list[int](), list[int]()
    while waiting or running:
        while waiting and len(running) < places:
            running.append(waiting.pop(0))
        expected.append(len(running))
        running = [left - 1 for left in running if left > 1]
    assert [len(calls) for calls in policy.batches] == expected


@pytest.mark.parametrize("steps", [note_then_answer, three_at_once, in_turn])
@pytest.mark.parametrize("kept", [0, 1, 2, 3, 4])
def test_recorded_steps_are_fed_back_without_asking_again(memory: Memory, steps: Steps, kept: int) -> None:
    job = Job(Scripted(steps), memory, "4")
    whole = answer(job, Echo())
    policy = Echo()
    again = answer(replace(job, recorded=whole.steps[:kept]), policy)
    assert (again.steps, again.answer, again.error) == (whole.steps, whole.answer, None)
    parallel_cut = steps is three_at_once and kept in (1, 2)  # part of a list is asked again as a whole
    usable = 0 if parallel_cut else min(kept, len(whole.steps))
    assert [call for calls in policy.batches for call in calls] == [step.call for step in whole.steps[usable:]]


def test_recorded_steps_of_another_run_are_an_error_on_their_trace(memory: Memory) -> None:
    system = Scripted(note_then_answer)
    other = answer(Job(system, memory, "other"), Echo()).steps
    half = answer(Job(Scripted(three_at_once), memory, "other"), Echo()).steps[:1]
    policy = Echo()
    jobs = [
        Job(system, memory, "q", other),
        Job(Scripted(three_at_once), memory, "q", half),
        Job(system, memory, "fine"),
    ]
    traces = finished(jobs, policy)
    said_so = "system: the recorded calls are not those that this system makes"
    assert [trace.failure for trace in traces] == [said_so, said_so, None]
    assert traces[2].answer == Answer("[fine [fine]]")
    assert {said(call) for calls in policy.batches for call in calls} == {"fine", "fine [fine]"}


def test_a_resumed_reply_is_used_as_recorded(memory: Memory) -> None:
    recorded = (Step(ask("q", "note"), Reply("from before")),)
    trace = answer(Job(Scripted(note_then_answer), memory, "q", recorded), Echo())
    assert trace.answer == Answer("[q from before]")


def test_only_answers_are_streamed_each_to_its_own_job(memory: Memory) -> None:
    heard: dict[int, str] = {}

    def listen(number: int, text: str) -> None:
        heard[number] = heard.get(number, "") + text

    jobs = [
        Job(Scripted(note_then_answer), memory, "a"),
        Job(Scripted(three_at_once), memory, "b"),
        Job(Scripted(one), memory, "c"),
    ]
    traces = finished(jobs, Echo(), places=2, on_token=listen)
    assert heard == {0: "[a [a]]", 1: "[[b0] [b1] [b2]]", 2: "[c]"}
    assert all(trace.cost.first_token_seconds > 0 for trace in traces)


def test_the_first_token_of_a_note_is_not_that_of_the_answer(memory: Memory) -> None:
    def noted(memory: Memory, question: str) -> AnswerSteps:
        yield ask(question, "note")
        return Answer("from the note")

    assert answer(Job(Scripted(noted), memory, "q"), Echo()).cost.first_token_seconds == 0.0


def test_a_cancelled_job_ends_and_frees_its_place(memory: Memory) -> None:
    policy = Echo()
    jobs = [Job(Scripted(one), memory, question) for question in "abcd"]
    traces = finished(jobs, policy, places=2, cancel=lambda number: number == 1)
    assert [trace.steps[0].reply.finish for trace in traces] == ["stop", "cancelled", "stop", "stop"]
    assert [trace.answer for trace in traces] == [Answer("[a]"), Answer(""), Answer("[c]"), Answer("[d]")]
    assert policy.batches == [[ask("a"), ask("b")], [ask("c"), ask("d")]]
