"""A question to answer (`Job`) and the state of a question that is being answered (`Running`).

Scheduling of the calls is in `memfold.core.scheduler`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from memfold.core.errors import DataError, Failure
from memfold.core.policy import Request
from memfold.core.registry import AnySystem
from memfold.core.system import AnswerSteps
from memfold.core.types import Answer, Call, Cost, Memory, Reply, SamplingParams, Step, Trace

Sampling = Callable[[Call, int], SamplingParams]
DIVERGED = "the recorded calls differ from the calls of this system; resume with the settings of the recorded run"


def check_question(question: str) -> None:
    """Raise a `DataError` for a question that is blank, or that cannot be encoded as UTF-8."""
    if not question.strip():
        raise DataError("the question is empty; ask something")
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"the question is not UTF-8 text: see character {error.start + 1}; correct it") from None


@dataclass(frozen=True)
class Job:
    """One question to answer.

    `sampling(call, number)` returns the sampling parameters of a call, numbered from 0; they replace the parameters of
    the call, so the trace records the ones that were used.  `recorded` holds the steps of an interrupted run; their
    replies are reused instead of sampling new ones.  `ask` replaces the system's `answer`, for callers that make the
    calls themselves.
    """

    system: AnySystem
    memory: Memory
    question: str
    sampling: Sampling | None = None
    recorded: tuple[Step, ...] = ()
    ask: Callable[[Memory, str], AnswerSteps] | None = None


@dataclass(eq=False)
class Running:
    """The state of a job that has been started: its generator, pending calls, and the steps so far."""

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
        """Whether the job has an answer or has failed."""
        return self.answer is not None or self.failure is not None

    def take(self, calls: tuple[Call, ...]) -> tuple[Reply, ...] | None:
        """Set the next calls and return their recorded replies.

        Returns None if the calls must be sent to the policy or the job has failed.  If only some of several parallel
        calls are recorded, all of them are sent again.
        """
        sampling, first = self.job.sampling, len(self.steps)
        if sampling is not None:
            calls = tuple(call.sampled(sampling(call, number)) for number, call in enumerate(calls, first))
        self.calls = tuple(calls)
        steps = [self.recorded.popleft() for _ in self.calls[: len(self.recorded)]]
        if [step.call for step in steps] != list(self.calls[: len(steps)]):
            self.failure = Failure("system", "CallError", DIVERGED)
        if self.failure is not None or len(steps) < len(self.calls):
            return None
        self.steps += steps
        return tuple(step.reply for step in steps)

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
