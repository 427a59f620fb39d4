"""A policy for tests: replies come from a function, in the order in which calls were made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from memfold.core.errors import Failure
from memfold.core.policy import Done, Request
from memfold.core.types import Call, Reply

Answer = Reply | str | Exception


@dataclass
class ScriptedPolicy:
    """Answers each call by `reply`: text, a whole reply, or an error that it returns or raises.

    `slow` says how many steps a call takes beyond its first; its text is written, and streamed, little by little
    meanwhile.  `calls` are those that were submitted, `batches` those that were worked on at each step, `rounds` how
    many.
    """

    reply: Callable[[Call], Answer]
    slow: Callable[[Call], int] = lambda call: 0
    calls: list[Call] = field(default_factory=list)
    batches: list[list[Call]] = field(default_factory=list)
    executions: list[ScriptedExecution] = field(default_factory=list)

    @property
    def rounds(self) -> list[int]:
        return [len(calls) for calls in self.batches]

    def answer(self, request: Request) -> Answer:
        """For policies that look at more than the call."""
        return self.reply(request.call)

    def start(self) -> ScriptedExecution:
        self.executions.append(ScriptedExecution(self))
        return self.executions[-1]


def scripted(*replies: Answer) -> ScriptedPolicy:
    """These replies one after another, whatever is asked."""
    left = list(replies)
    return ScriptedPolicy(lambda call: left.pop(0))


@dataclass(eq=False)
class _Work:
    """A call that is being answered; `outcome` is what comes of it after `left` more steps."""

    request: Request
    outcome: Reply | Failure
    left: int
    steps: int = 1
    shown: int = 0


class ScriptedExecution:
    """The work of one scheduler."""

    def __init__(self, policy: ScriptedPolicy) -> None:
        self._policy = policy
        self._submitted: list[Request] = []
        self._running: list[_Work] = []
        self._cancelled: set[Request] = set()
        self.closed = False

    def submit(self, request: Request) -> None:
        self._policy.calls.append(request.call)
        self._submitted.append(request)

    def cancel(self, request: Request) -> None:
        self._cancelled.add(request)

    def step(self) -> list[Done]:
        submitted, self._submitted = self._submitted, []
        self._running += [self._begin(request) for request in submitted]
        self._policy.batches.append([work.request.call for work in self._running])
        running, self._running = self._running, []
        return [done for work in running for done in self._advance(work)]

    def close(self) -> None:
        self.closed = True

    def _begin(self, request: Request) -> _Work:
        if request in self._cancelled:
            return _Work(request, Reply(finish="cancelled"), 0)
        slow = self._policy.slow(request.call)
        return _Work(request, _outcome(self._policy, request), slow, slow + 1)

    def _advance(self, work: _Work) -> Sequence[Done]:
        """Write a little more; the call with its outcome once it is done."""
        request, outcome = work.request, work.outcome
        text = outcome.text if isinstance(outcome, Reply) else ""
        if request in self._cancelled:
            return [(request, Reply(text[: work.shown], finish="cancelled"))]
        end = len(text) * (work.steps - work.left) // work.steps
        if request.on_text is not None and end > work.shown:
            request.on_text(text[work.shown : end])
        work.shown, work.left = end, work.left - 1
        if work.left >= 0:
            self._running.append(work)
            return []
        return [(request, outcome)]


def _outcome(policy: ScriptedPolicy, request: Request) -> Reply | Failure:
    try:
        answer = policy.answer(request)
    except Exception as error:
        answer = error
    if isinstance(answer, Exception):
        return Failure.of("policy", answer)
    return Reply(answer) if isinstance(answer, str) else answer
