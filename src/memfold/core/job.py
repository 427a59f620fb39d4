"""One question on its way to an answer: what is asked (`Job`) and how far it has come (`Running`).

Left out: when its calls are worked on (`memfold.core.scheduler`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from memfold.core.errors import Failure
from memfold.core.policy import Request
from memfold.core.registry import AnySystem
from memfold.core.system import AnswerSteps
from memfold.core.types import Answer, Call, Cost, Memory, Reply, SamplingParams, Step, Trace

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
class Running:
    """A job between two rounds of calls."""

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
        """Whether there is an answer, or none will come."""
        return self.answer is not None or self.failure is not None

    def take(self, calls: tuple[Call, ...]) -> tuple[Reply, ...] | None:
        """Make the next calls; their recorded replies, None where they are to be asked or the job has failed.

        Parallel calls of which only a part is recorded are asked again as a whole.
        """
        sampling, before = self.job.sampling, len(self.steps)
        if sampling is not None:
            calls = tuple(call.sampled(sampling(call, before + place)) for place, call in enumerate(calls))
        self.calls = tuple(calls)
        steps = [self.recorded.popleft() for _ in self.calls[: len(self.recorded)]]
        if [step.call for step in steps] != list(self.calls[: len(steps)]):
            self.failure = Failure("system", "CallError", "the recorded calls are not those that this system makes")
        if self.failure is not None or len(steps) < len(self.calls):
            return None
        self.steps += steps
        return tuple(step.reply for step in steps)

    def trace(self) -> Trace:
        """What happened."""
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
