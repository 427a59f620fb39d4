"""Runs many samples at once: one generator per sample, whose calls join the policy's work as soon as they are made.

At every step the policy takes in the calls that wait, does one piece of work (a decoding step, a batch of scores, an
answer from an endpoint) and gives back what is done.  So a quick call never waits for a slow one.  A failing sample is
recorded on its own trace and never disturbs the others.  Recorded steps fed back first resume an interrupted run
without asking the policy again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from memfold.core.errors import DataError, Failure
from memfold.core.registry import AnySystem
from memfold.core.system import AnswerSteps
from memfold.core.types import Answer, Call, Cost, Memory, Reply, SamplingParams, Step, Trace

ANSWER = "answer"  # the purpose of calls whose replies are streamed to a user
MAX_CONCURRENCY = 32

OnText = Callable[[int, str], None]
Sampling = Callable[[Call, int], SamplingParams]


@dataclass(frozen=True)
class Job:
    """One question to answer.

    `sampling` gives the sampling parameters of each call by its number, counted from 0, in place of the call's own;
    they are put on the call, so that a trace records those it was answered with.  `recorded` are steps of an earlier
    run to feed back first.  `ask` stands in for the system's own `answer`, for callers that make the calls themselves.
    """

    system: AnySystem
    memory: Memory
    question: str
    sampling: Sampling | None = None
    recorded: tuple[Step, ...] = ()
    ask: Callable[[Memory, str], AnswerSteps] | None = None


@dataclass(eq=False)
class Request:
    """A call on its way to a policy, which hands the text of the reply to `on_text` as it is written."""

    system: AnySystem
    memory: Memory
    call: Call
    on_text: Callable[[str], None] | None = None


Done = tuple[Request, Reply | Failure]


class Execution(Protocol):
    """The work that a policy does for one scheduler."""

    def submit(self, request: Request) -> None:
        """Take a call in; it joins the work at the next step."""
        ...

    def cancel(self, request: Request) -> None:
        """End a call early: its reply, with what there is of it, comes back with finish `cancelled`."""
        ...

    def step(self) -> list[Done]:
        """Do one piece of work; the calls that are done, each with its reply or why there is none."""
        ...

    def close(self) -> None:
        """Drop whatever is not done."""
        ...


class Policy(Protocol):
    """What makes replies."""

    def start(self) -> Execution:
        """New work, apart from any other."""
        ...


@dataclass(eq=False)
class _Running:
    """A sample between two rounds of calls."""

    number: int
    job: Job
    generator: AnswerSteps
    started: float
    recorded: deque[Step]
    calls: tuple[Call, ...] = ()
    replies: dict[int, Reply] = field(default_factory=dict)
    requests: dict[Request, int] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    answer: Answer | None = None
    failure: Failure | None = None
    first_token: float = 0.0
    cancelled: bool = False

    @property
    def finished(self) -> bool:
        return self.answer is not None or self.failure is not None


class Scheduler:
    """Answers jobs, at most `max_concurrency` at a time; use it in a `with` block, or through `run`.

    `on_text(job number, text)` receives the text of calls whose purpose is `answer`, or the whole reply of a job that
    ended without such a call.
    """

    def __init__(self, policy: Policy, max_concurrency: int = MAX_CONCURRENCY, on_text: OnText | None = None) -> None:
        self.max_concurrency, self.on_text = max_concurrency, on_text
        self._execution = policy.start()
        self._numbers = count()
        self._waiting: deque[tuple[int, Job]] = deque()
        self._running: dict[int, _Running] = {}
        self._owners: dict[Request, _Running] = {}
        self._cancelled: set[int] = set()

    def submit(self, job: Job) -> int:
        """Take a job in; its number, counted from 0."""
        number = next(self._numbers)
        self._waiting.append((number, job))
        return number

    def cancel(self, number: int) -> None:
        """End the replies of a job early; its trace follows with finish `cancelled` on the last of them."""
        self._cancelled.add(number)
        sample = self._running.get(number)
        if sample is not None:
            sample.cancelled = True
            for request in sample.requests:
                self._execution.cancel(request)

    @property
    def idle(self) -> bool:
        """Whether everything that was submitted is done."""
        return not self._waiting and not self._running

    @property
    def has_room(self) -> bool:
        """Whether another job could begin now."""
        return len(self._running) + len(self._waiting) < self.max_concurrency

    def step(self) -> list[tuple[int, Trace]]:
        """Begin jobs as there is room, do one piece of work, advance the samples whose replies came; those finished."""
        while self._waiting and len(self._running) < self.max_concurrency:
            self._begin(*self._waiting.popleft())
        if self._owners:
            for request, outcome in self._execution.step():
                self._receive(request, outcome)
        done = [sample for sample in self._running.values() if sample.finished]
        for sample in done:
            del self._running[sample.number]
            self._cancelled.discard(sample.number)
        return [(sample.number, _trace(sample)) for sample in done]

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Trace]]:
        """Answer every job; yields (job number, trace) in the order in which they finish."""
        waiting = iter(jobs)
        with self:
            more = True
            while more or not self.idle:
                while more and self.has_room:
                    job = next(waiting, None)
                    if job is None:
                        more = False
                    else:
                        self.submit(job)
                yield from self.step()

    def close(self) -> None:
        """Drop whatever is not done."""
        self._execution.close()

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _begin(self, number: int, job: Job) -> None:
        generator = (job.ask or job.system.answer)(job.memory, job.question)
        sample = _Running(number, job, generator, time.perf_counter(), deque(job.recorded))
        sample.cancelled = number in self._cancelled
        self._running[number] = sample
        if job.question.strip():
            self._advance(sample, None)
        else:
            sample.failure = Failure.of("scheduler", DataError("the question is empty; ask something"))

    def _advance(self, sample: _Running, replies: tuple[Reply, ...] | None) -> None:
        """Run a generator up to its next calls, feeding back recorded replies as long as there are any."""
        while True:
            try:
                calls = sample.generator.send(replies)  # type: ignore[arg-type]
                sample.calls = _sampled(sample, calls)
            except StopIteration as stop:
                self._end(sample, stop.value)
                return
            except Exception as error:  # a broken sample is data, not the end of the run
                sample.failure = Failure.of("system", error)
                return
            recorded = _recorded(sample)
            if recorded is None or len(recorded) < len(sample.calls):
                break
            replies = recorded
        if not sample.finished:
            self._send(sample)

    def _send(self, sample: _Running) -> None:
        """Hand the calls of a sample to the policy."""
        sample.replies, sample.requests = {}, {}
        for place, call in enumerate(sample.calls):
            listen = self._listener(sample) if call.purpose == ANSWER else None
            request = Request(sample.job.system, sample.job.memory, call, listen)
            sample.requests[request] = place
            self._owners[request] = sample
            self._execution.submit(request)
            if sample.cancelled:
                self._execution.cancel(request)

    def _receive(self, request: Request, outcome: Reply | Failure) -> None:
        sample = self._owners.pop(request)
        if sample.finished:  # another call of it has failed meanwhile
            return
        if isinstance(outcome, Failure):
            sample.failure = outcome
            sample.generator.close()
            for other in sample.requests.keys() & self._owners.keys():
                self._execution.cancel(other)
            return
        sample.replies[sample.requests[request]] = outcome
        if len(sample.replies) == len(sample.calls):
            replies = tuple(sample.replies[place] for place in range(len(sample.calls)))
            sample.steps += [Step(call, reply) for call, reply in zip(sample.calls, replies, strict=True)]
            sample.requests = {}
            self._advance(sample, replies)

    def _end(self, sample: _Running, answer: Answer | None) -> None:
        if answer is None:
            sample.failure = Failure("system", "CallError", "it ended without an answer")
            return
        sample.answer = answer
        if answer.reply and not sample.first_token:
            self._show(sample, answer.reply)

    def _listener(self, sample: _Running) -> Callable[[str], None]:
        return lambda text: self._show(sample, text)

    def _show(self, sample: _Running, text: str) -> None:
        sample.first_token = sample.first_token or time.perf_counter() - sample.started
        if self.on_text is not None:
            self.on_text(sample.number, text)


def answer(job: Job, policy: Policy, on_text: Callable[[str], None] | None = None) -> Trace:
    """Answer one job."""
    show = None if on_text is None else lambda number, text: on_text(text)
    ((_, trace),) = Scheduler(policy, 1, show).run([job])
    return trace


def complete(policy: Policy, requests: Sequence[Request]) -> list[Reply]:
    """The replies to some calls, in their order, for callers that have no question to ask.

    Raises:
        MemfoldError: what the first call that failed failed with.
    """
    execution = policy.start()
    replies: dict[Request, Reply] = {}
    try:
        for request in requests:
            execution.submit(request)
        while len(replies) < len(requests):
            for request, outcome in execution.step():
                if isinstance(outcome, Failure):
                    raise outcome.exception()
                replies[request] = outcome
    finally:
        execution.close()
    return [replies[request] for request in requests]


def _sampled(sample: _Running, calls: tuple[Call, ...]) -> tuple[Call, ...]:
    """The calls with the sampling parameters of their job."""
    sampling, before = sample.job.sampling, len(sample.steps)
    if sampling is None:
        return tuple(calls)
    return tuple(call.sampled(sampling(call, before + place)) for place, call in enumerate(calls))


def _recorded(sample: _Running) -> tuple[Reply, ...] | None:
    """The recorded replies to the calls of a sample; None where they go to the policy, or the sample has failed.

    Parallel calls of which only a part is recorded are asked again as a whole.
    """
    calls = sample.calls
    steps = [sample.recorded.popleft() for _ in calls[: len(sample.recorded)]]
    if [step.call for step in steps] != list(calls[: len(steps)]):
        sample.failure = Failure("system", "CallError", "the recorded calls are not those that this system makes")
        return None
    if len(steps) < len(calls):
        return None
    sample.steps += steps
    return tuple(step.reply for step in steps)


def _trace(sample: _Running) -> Trace:
    memory = sample.job.memory
    cost = Cost(
        calls=len(sample.steps),
        document_tokens=memory.token_count,
        slots=memory.slot_count,
        positions=max((step.reply.positions for step in sample.steps), default=0),
        generated_tokens=sum(step.reply.token_count for step in sample.steps),
        seconds=time.perf_counter() - sample.started,
        first_token_seconds=sample.first_token,
    )
    return Trace(
        question=sample.job.question,
        system=sample.job.system.name,
        settings=sample.job.system.settings,
        steps=tuple(sample.steps),
        answer=sample.answer,
        failure=sample.failure,
        cost=cost,
    )
