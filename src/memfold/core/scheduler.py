"""Runs many samples at once: one generator per sample, whose calls join the policy's work as soon as they are made.

At every step the policy takes in the calls that wait, does one piece of work (a decoding step, a batch of scores, an
answer from an endpoint) and gives back what is done.  So a quick call never waits for a slow one.  A failing sample is
recorded on its own trace and never disturbs the others.  Recorded steps fed back first resume an interrupted run
without asking the policy again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import count

from memfold.core.errors import DataError, Failure
from memfold.core.job import Job, Running
from memfold.core.policy import ANSWER, Policy, Request
from memfold.core.types import Answer, Reply, Step, Trace

MAX_CONCURRENCY = 32

OnText = Callable[[int, str], None]


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
        self._running: dict[int, Running] = {}
        self._owners: dict[Request, Running] = {}
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
        return [(sample.number, sample.trace()) for sample in done]

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Trace]]:
        """Answer every job; yields (job number, trace) in the order in which they finish."""
        waiting = iter(jobs)
        with self:
            more = True
            while more or not self.idle:
                more = more and self._submit_some(waiting)
                yield from self.step()

    def close(self) -> None:
        """Drop whatever is not done."""
        self._execution.close()

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _submit_some(self, jobs: Iterator[Job]) -> bool:
        """Submit jobs as far as there is room; whether there may be more."""
        while self.has_room:
            job = next(jobs, None)
            if job is None:
                return False
            self.submit(job)
        return True

    def _begin(self, number: int, job: Job) -> None:
        generator = (job.ask or job.system.answer)(job.memory, job.question)
        sample = Running(number, job, generator, time.perf_counter(), deque(job.recorded))
        sample.cancelled = number in self._cancelled
        self._running[number] = sample
        if job.question.strip():
            self._advance(sample, None)
        else:
            sample.failure = Failure.of("scheduler", DataError("the question is empty; ask something"))

    def _advance(self, sample: Running, replies: tuple[Reply, ...] | None) -> None:
        """Run a generator up to its next calls, feeding back recorded replies as long as there are any."""
        while True:
            try:
                recorded = sample.take(sample.generator.send(replies))  # type: ignore[arg-type]
            except StopIteration as stop:
                self._end(sample, stop.value)
                return
            except Exception as error:  # a broken sample is data, not the end of the run
                sample.failure = Failure.of("system", error)
                return
            if recorded is None:
                break
            replies = recorded
        if not sample.finished:
            self._send(sample)

    def _send(self, sample: Running) -> None:
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

    def _end(self, sample: Running, answer: Answer | None) -> None:
        if answer is None:
            sample.failure = Failure("system", "CallError", "it ended without an answer")
            return
        sample.answer = answer
        if answer.reply and not sample.first_token:
            self._show(sample, answer.reply)

    def _listener(self, sample: Running) -> Callable[[str], None]:
        return lambda text: self._show(sample, text)

    def _show(self, sample: Running, text: str) -> None:
        sample.first_token = sample.first_token or time.perf_counter() - sample.started
        if self.on_text is not None:
            self.on_text(sample.number, text)


def answer(job: Job, policy: Policy, on_text: Callable[[str], None] | None = None) -> Trace:
    """Answer one job."""
    show = None if on_text is None else lambda number, text: on_text(text)
    ((_, trace),) = Scheduler(policy, 1, show).run([job])
    return trace
