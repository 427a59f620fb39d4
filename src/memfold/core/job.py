"""A question to answer (`Job`) and the state of a question that is being answered (`Running`).

Scheduling of the calls is in `memfold.core.scheduler`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from memfold.core.errors import DataError, Failure
from memfold.core.policy import Request
from memfold.core.registry import AnySystem
from memfold.core.system import AnswerSteps
from memfold.core.types import Answer, Call, Cost, Generate, Memory, Reply, SamplingParams, Step, Trace

Sampling = Callable[[Call, int], SamplingParams]
OnStep = Callable[[int, int, Step], None]  # number of the job, number of the step
RECORDED = "recorded"  # the boundary of a failure of recorded steps


def check_question(question: str) -> None:
    """Raise a `DataError` for a question that is blank, or that cannot be encoded as UTF-8."""
    if not question.strip():
        raise DataError("the question is empty; ask something")
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"the question is not UTF-8 text: see character {error.start + 1}; correct it") from None


def diverged(number: int) -> Failure:
    """Return the failure of a job whose call `number`, counted from 0, is not the recorded one."""
    return Failure(
        RECORDED,
        DataError.__name__,
        f"call {number + 1} differs from the recorded one; repeat what was recorded, with the same version of memfold",
    )


@dataclass(eq=False)
class SharedReplies:
    """The replies to calls that several jobs make alike, and the requests for those that have none yet.

    Only a greedy reply that is not the answer is shared: it would be the same again, and nobody waits for its text.
    """

    replies: dict[Call, Reply] = field(default_factory=dict)
    pending: dict[Call, Request] = field(default_factory=dict)

    def withdraw(self, request: Request) -> bool:
        """Let no other job wait for a request from now on; return whether one could have waited before."""
        if self.pending.get(request.call) is not request:
            return False
        del self.pending[request.call]
        return True


@dataclass(frozen=True)
class Job:
    """One question to answer.

    `sampling(call, number)` returns the sampling parameters of a call, numbered from 0; they replace the parameters of
    the call, so the trace records the ones that were used.  `recorded` holds the steps of an interrupted run, None in
    place of a call without a reply; their replies are reused instead of sampling new ones.  `ask` replaces the system's
    `answer`, for callers that make the calls themselves.  Jobs with the same `shared` make equal calls once; a trace
    has them all, and its cost those that were made for it.
    """

    system: AnySystem
    memory: Memory
    question: str
    sampling: Sampling | None = None
    recorded: tuple[Step | None, ...] = ()
    ask: Callable[[Memory, str], AnswerSteps] | None = None
    shared: SharedReplies | None = None


def reading_together(jobs: Iterable[Job]) -> Iterator[Job]:
    """Yield jobs in their order; those in a row about the same memory read it together, as many as their system does
    (`Capabilities.questions`)."""
    for _, alike in groupby(jobs, key=lambda job: (id(job.memory), id(job.system))):
        waiting = list(alike)
        most = waiting[0].system.capabilities.questions
        for start in range(0, len(waiting), most):
            yield from _together(waiting[start : start + most])


def _together(jobs: Sequence[Job]) -> Sequence[Job]:
    if len(jobs) == 1:
        return jobs
    system, shared = jobs[0].system.about([job.question for job in jobs]), SharedReplies()
    return [replace(job, system=system, shared=shared) for job in jobs]


@dataclass(eq=False)
class Running:
    """The state of a job that has been started: its generator, pending calls, and the steps so far."""

    number: int
    job: Job
    generator: AnswerSteps
    started: float
    calls: tuple[Call, ...] = ()
    replies: dict[int, Reply] = field(default_factory=dict)
    requests: dict[Request, int] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    answer: Answer | None = None
    failure: Failure | None = None
    borrowed: set[int] = field(default_factory=set)  # numbers of the steps that were made for another job
    first_token: float = 0.0
    cancelled: bool = False

    @property
    def finished(self) -> bool:
        """Whether the job has an answer or has failed."""
        return self.answer is not None or self.failure is not None

    def take(self, calls: tuple[Call, ...]) -> None:
        """Set the next calls, and their replies as far as they are recorded; another call than the recorded one is a
        failure."""
        sampling, first = self.job.sampling, len(self.steps)
        if sampling is not None:
            calls = tuple(call.sampled(sampling(call, number)) for number, call in enumerate(calls, first))
        self.calls, self.replies = tuple(calls), {}
        for index, step in enumerate(self.job.recorded[first : first + len(self.calls)]):
            if step is None:
                continue
            if step.call != self.calls[index]:
                self.failure = diverged(first + index)
                return
            self.replies[index] = step.reply
        self._borrow(first)

    def shared(self, call: Call) -> SharedReplies | None:
        """Return where the reply to a call is shared with other jobs; None if it is not."""
        wants, may_share = call.wants, not self.cancelled and not self.job.system.may_answer(call)
        greedy = isinstance(wants, Generate) and wants.sampling.temperature == 0
        return self.job.shared if greedy and may_share else None

    def _borrow(self, first: int) -> None:
        """Take the replies that other jobs have got to these calls, and let them have those that are recorded."""
        for index, call in enumerate(self.calls):
            shared = self.shared(call)
            if shared is None:
                continue
            if index in self.replies:
                shared.replies.setdefault(call, self.replies[index])
            elif call in shared.replies:
                self.replies[index] = shared.replies[call]
                self.borrowed.add(first + index)

    def tell(self, on_step: OnStep | None, indices: Iterable[int]) -> None:
        """Hand on those of the calls that have got a reply."""
        for index in indices:
            if on_step is not None:
                on_step(self.number, len(self.steps) + index, Step(self.calls[index], self.replies[index]))

    @property
    def waits(self) -> bool:
        """Whether one of the calls has no reply yet."""
        return len(self.replies) < len(self.calls)

    def complete(self) -> tuple[Reply, ...]:
        """Add the calls with their replies to the steps, and return the replies in the order of the calls."""
        replies = tuple(self.replies[index] for index in range(len(self.calls)))
        self.steps += [Step(call, reply) for call, reply in zip(self.calls, replies, strict=True)]
        return replies

    def trace(self) -> Trace:
        """The trace of the job so far, with its cost."""
        memory = self.job.memory
        made = [step for number, step in enumerate(self.steps) if number not in self.borrowed]
        cost = Cost(
            calls=len(made),
            document_tokens=memory.token_count,
            slots=memory.slot_count,
            positions=max((step.reply.positions for step in self.steps), default=0),
            generated_tokens=sum(step.reply.token_count for step in made),
            seconds=time.perf_counter() - self.started,
            first_token_seconds=self.first_token,
        )
        return Trace(
            question=self.job.question,
            system=self.job.system.name,
            settings=self.job.system.settings,
            steps=tuple(self.steps),
            answer=self.answer,
            failure=self.failure,
            cost=cost,
        )
