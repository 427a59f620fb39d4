"""Runs many samples at once: one generator per sample, their calls batched, places refilled as samples finish.

A failing sample is recorded on its own trace and never disturbs the others.  Recorded steps fed back first resume an
interrupted run without asking the policy again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from memfold.core.errors import CallError, DataError
from memfold.core.system import AnswerSteps, Calls, MemorySystem, Policy
from memfold.core.types import Answer, Call, Cost, Memory, Reply, Step, Trace


@dataclass(frozen=True)
class Job:
    """One question to answer; `recorded` are steps of an earlier run to feed back first."""

    system: MemorySystem
    memory: Memory
    question: str
    recorded: tuple[Step, ...] = ()


@dataclass
class _Running:
    """A generator between two calls."""

    number: int
    job: Job
    generator: AnswerSteps
    started: float
    pending: list[Call] = field(default_factory=list)
    alone: bool = True
    replies: list[Reply] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    recorded: deque[Step] = field(default_factory=deque)
    answer: Answer | None = None
    error: str | None = None
    first_token: float = 0.0

    @property
    def finished(self) -> bool:
        return self.answer is not None or self.error is not None


OnToken = Callable[[int, str], None]


def run(jobs: Iterable[Job], policy: Policy, places: int = 32, on_token: OnToken | None = None,
        cancel: Callable[[int], bool] | None = None) -> Iterator[tuple[int, Trace]]:  # fmt: skip
    """Answer every job, `places` at a time; yields (job number, trace) in the order in which they finish.

    `on_token(job number, text)` receives the tokens of calls whose purpose is `answer`, or the whole reply of a job
    that ended without such a call; `cancel(job number)` ends a job's replies early with finish `cancelled`.
    """
    waiting = enumerate(jobs)
    running: list[_Running] = []
    while True:
        while len(running) < places and (entry := next(waiting, None)) is not None:
            running.append(_start(*entry))
        if not running:
            return
        _round([sample for sample in running if not sample.finished], policy, on_token, cancel)
        for sample in running:
            if sample.finished:
                yield sample.number, _trace(sample)
        running = [sample for sample in running if not sample.finished]


def answer(job: Job, policy: Policy, on_token: OnToken | None = None) -> Trace:
    """Answer one job."""
    return next(run([job], policy, 1, on_token))[1]


def _start(number: int, job: Job) -> _Running:
    generator = job.system.answer(job.memory, job.question)
    sample = _Running(number, job, generator, time.perf_counter(), recorded=deque(job.recorded))
    if job.question.strip():
        _advance(sample, None)
    else:
        sample.error = _describe("driver", DataError("the question is empty; ask something"))
    return sample


def _advance(sample: _Running, replies: Reply | list[Reply] | None) -> None:
    """Run a generator up to its next calls, feeding back recorded replies as long as there are any."""
    while True:
        try:
            calls: Calls = sample.generator.send(replies)  # type: ignore[arg-type]
        except StopIteration as stop:
            sample.answer = stop.value
            sample.error = None if stop.value is not None else "system: it ended without an answer"
            return
        except Exception as error:  # a broken sample is data, not the end of the run
            sample.error = _describe("system", error)
            return
        sample.alone = isinstance(calls, Call)
        sample.pending = [calls] if isinstance(calls, Call) else list(calls)
        if not sample.pending:
            replies = []
            continue
        steps = [sample.recorded.popleft() for _ in sample.pending[: len(sample.recorded)]]
        if [step.call for step in steps] != sample.pending[: len(steps)]:
            sample.error = "system: the recorded calls are not those that this system makes"
            return
        if len(steps) < len(sample.pending):  # a recorded part of parallel calls is asked again as a whole
            return
        sample.steps += steps
        given = [step.reply for step in steps]
        replies = given[0] if sample.alone else given


def _round(samples: list[_Running], policy: Policy, on_token: OnToken | None,
           cancel: Callable[[int], bool] | None) -> None:  # fmt: skip
    """Send every pending call in one batch and advance each generator with what came back."""
    owners = [sample for sample in samples for _ in sample.pending]
    calls = [call for sample in samples for call in sample.pending]

    def show(owner: _Running, text: str) -> None:
        owner.first_token = owner.first_token or time.perf_counter() - owner.started
        if on_token is not None:
            on_token(owner.number, text)

    def stream(row: int, text: str) -> None:
        if calls[row].purpose == "answer":
            show(owners[row], text)

    stopped = (lambda row: cancel(owners[row].number)) if cancel is not None else None
    requests = [(owner.job.system, owner.job.memory, call) for owner, call in zip(owners, calls, strict=True)]
    replies = iter(policy.generate(requests, stream, stopped)) if requests else iter(())
    for sample in samples:
        received = [next(replies) for _ in sample.pending]
        failed = next((reply for reply in received if isinstance(reply, Exception)), None)
        if failed is not None:
            sample.error = _describe("policy", failed)
            sample.generator.close()
            continue
        good = [reply for reply in received if isinstance(reply, Reply)]
        sample.steps += [Step(call, reply) for call, reply in zip(sample.pending, good, strict=True)]
        _advance(sample, good[0] if sample.alone else good)
        if sample.answer is not None and sample.answer.reply and not sample.first_token:
            show(sample, sample.answer.reply)


def _describe(boundary: str, error: Exception) -> str:
    return str(error) if isinstance(error, CallError) else f"{boundary}: {type(error).__name__}: {error}"


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
    return Trace(sample.job.question, sample.job.system.name, sample.job.system.settings, tuple(sample.steps),
                 sample.answer, None, sample.error, cost)  # fmt: skip
