"""Answers many questions concurrently, one generator per question.

Calls are submitted to the policy as soon as a generator yields them.  At every step the policy adds the waiting calls,
does one unit of work (a decoding step, a batch of scores, a response of an endpoint) and returns the finished calls, so
a short call never waits for a long one.  A failure is recorded on the trace of its question and does not affect others.
Recorded steps of an interrupted run are replayed without calling the policy.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import count

from memfold.core.errors import DataError, Failure
from memfold.core.job import Job, OnStep, Running, check_question
from memfold.core.policy import Policy, Request
from memfold.core.requests import Requests
from memfold.core.types import Answer, Reply, Trace

MAX_CONCURRENCY = 32

OnText = Callable[[int, str], None]


class Scheduler:
    """Answers up to `max_concurrency` jobs concurrently; use it in a `with` block, or call `run`.

    `on_text(job number, text)` receives the replies that may be the answer as they are generated, with a line break
    between two of them, or the full reply of a job without such a call (`MemorySystem.may_answer`).  `on_step(job
    number, step number, step)` receives each call with its reply as soon as it has one, recorded ones included.
    """

    def __init__(
        self,
        policy: Policy,
        max_concurrency: int = MAX_CONCURRENCY,
        on_text: OnText | None = None,
        on_step: OnStep | None = None,
    ) -> None:
        self.max_concurrency, self.on_text, self.on_step = max_concurrency, on_text, on_step
        self._execution = policy.start()
        self._requests = Requests(self._execution)
        self._numbers = count()
        self._waiting: deque[tuple[int, Job]] = deque()
        self._running: dict[int, Running] = {}
        self._cancelled: set[int] = set()

    def submit(self, job: Job) -> int:
        """Queue a job and return its number, counted from 0."""
        number = next(self._numbers)
        self._waiting.append((number, job))
        return number

    def cancel(self, number: int) -> None:
        """End the replies of a job early; a later step returns its trace, with finish reason `cancelled`.

        A reply that another job waits for, too, is completed before.
        """
        if any(number == waiting for waiting, _ in self._waiting):
            self._cancelled.add(number)
        running = self._running.get(number)
        if running is not None:
            running.cancelled = True
            self._requests.cancel(running)

    @property
    def idle(self) -> bool:
        """Whether all submitted jobs are finished."""
        return not self._waiting and not self._running

    @property
    def has_room(self) -> bool:
        """Whether another job could start at the next step."""
        return len(self._running) + len(self._waiting) < self.max_concurrency

    def step(self) -> list[tuple[int, Trace]]:
        """Start waiting jobs, advance all running ones, and return (job number, trace) of those that finished."""
        while self._waiting and len(self._running) < self.max_concurrency:
            self._begin(*self._waiting.popleft())
        if self._requests:
            for request, outcome in self._execution.step():
                for running in self._requests.finish(request, outcome):
                    self._receive(running, request, outcome)
        done = [running for running in self._running.values() if running.finished]
        for running in done:
            del self._running[running.number]
        return [(running.number, running.trace()) for running in done]

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Trace]]:
        """Answer all jobs; yield (job number, trace) in the order in which they finish."""
        waiting = iter(jobs)
        with self:
            more = True
            while more or not self.idle:
                more = more and self._submit_some(waiting)
                yield from self.step()

    def close(self) -> None:
        """Abandon all unfinished jobs."""
        self._execution.close()

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _submit_some(self, jobs: Iterator[Job]) -> bool:
        """Submit jobs up to the concurrency limit; return whether `jobs` may have more."""
        while self.has_room:
            job = next(jobs, None)
            if job is None:
                return False
            self.submit(job)
        return True

    def _begin(self, number: int, job: Job) -> None:
        generator = (job.ask or job.system.answer)(job.memory, job.question)
        running = Running(number, job, generator, time.perf_counter())
        running.cancelled = number in self._cancelled
        self._cancelled.discard(number)
        self._running[number] = running
        try:
            check_question(job.question)
        except DataError as error:
            running.failure = Failure.of("scheduler", error)
        else:
            self._advance(running, None)

    def _advance(self, running: Running, replies: tuple[Reply, ...] | None) -> None:
        """Run a generator until it yields calls without recorded replies, and submit those to the policy."""
        while True:
            try:
                running.take(running.generator.send(replies))  # type: ignore[arg-type]
            except StopIteration as stop:
                self._end(running, stop.value)
                return
            except Exception as error:  # a failure is recorded; the other jobs go on
                running.failure = Failure.of("system", error)
                return
            running.tell(self.on_step, running.replies)
            if running.finished:
                return
            if running.waits:
                break
            replies = running.complete()
        self._send(running)

    def _send(self, running: Running) -> None:
        """Submit the calls of a job that have no reply yet to the policy."""
        running.requests = {}
        if running.first_token and any(map(running.job.system.may_answer, running.calls)):
            self._show(running, "\n")
        for index, call in enumerate(running.calls):
            if index not in running.replies:
                listens = running.job.system.may_answer(call)
                self._requests.submit(running, index, self._listener(running) if listens else None)

    def _receive(self, running: Running, request: Request, outcome: Reply | Failure) -> None:
        if running.finished:  # another of its parallel calls has failed
            return
        if isinstance(outcome, Failure):
            running.failure = outcome
            running.generator.close()
            self._requests.cancel(running)
            return
        index = running.requests[request]
        running.replies[index] = outcome
        running.tell(self.on_step, [index])
        if not running.waits:
            running.requests = {}
            self._advance(running, running.complete())

    def _end(self, running: Running, answer: Answer | None) -> None:
        if answer is None:
            running.failure = Failure("system", "CallError", "answer() returned None; it must return an Answer")
            return
        running.answer = answer if answer.reply.strip() else replace(answer, citations=())  # nothing is cited
        if answer.reply and not running.first_token:
            self._show(running, answer.reply)

    def _listener(self, running: Running) -> Callable[[str], None]:
        return lambda text: self._show(running, text)

    def _show(self, running: Running, text: str) -> None:
        running.first_token = running.first_token or time.perf_counter() - running.started
        if self.on_text is not None:
            self.on_text(running.number, text)


def answer(
    job: Job, policy: Policy, on_text: Callable[[str], None] | None = None, on_step: OnStep | None = None
) -> Trace:
    """Answer one job and return its trace; `on_text` receives the text of the answer as it is generated, `on_step` each
    call with its reply."""
    show = None if on_text is None else lambda number, text: on_text(text)
    ((_, trace),) = Scheduler(policy, 1, show, on_step).run([job])
    return trace
