"""A question to answer (`Job`) and the state of a question that is being answered (`Running`).

Scheduling of the calls is in `memfold.core.scheduler`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from memfold.core.errors import DataError, Failure
from memfold.core.policy import Request
from memfold.core.registry import AnySystem
from memfold.core.system import AnswerSteps
from memfold.core.types import Answer, Call, Cost, Memory, Reply, SamplingParams, Step, Trace

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


@dataclass(frozen=True)
class Job:
    """One question to answer.

    `sampling(call, number)` returns the sampling parameters of a call, numbered from 0; they replace the parameters of
    the call, so the trace records the ones that were used.  `recorded` holds the steps of an interrupted run, None in
    place of a call without a reply; their replies are reused instead of sampling new ones.  `ask` replaces the system's
    `answer`, for callers that make the calls themselves.
    """

    system: AnySystem
    memory: Memory
    question: str
    sampling: Sampling | None = None
    recorded: tuple[Step | None, ...] = ()
    ask: Callable[[Memory, str], AnswerSteps] | None = None


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
        cost = Cost(
            calls=len(self.steps),
            document_tokens=memory.token_count,
            slots=memory.slot_count,
            positions=max((step.reply.positions for step in self.steps), default=0),
            generated_tokens=sum(step.reply.token_count for step in self.steps),
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
