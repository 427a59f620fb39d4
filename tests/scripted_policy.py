"""A policy for tests: replies come from a function, in the order in which calls were made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from memfold.core.errors import Failure
from memfold.core.scheduler import Done, Request
from memfold.core.types import Call, Reply

Answer = Reply | str | Exception


@dataclass
class ScriptedPolicy:
    """Answers each call by `reply`: text, a whole reply, or an error that it returns or raises.

    `calls` are those that it was given, `rounds` how many at each step.  With `slow` only calls for which it is false
    are answered at once; the others take that many steps.
    """

    reply: Callable[[Call], Answer]
    slow: Callable[[Call], int] = lambda call: 0
    calls: list[Call] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)

    def start(self) -> ScriptedExecution:
        return ScriptedExecution(self)


def scripted(*replies: Answer) -> ScriptedPolicy:
    """These replies one after another, whatever is asked."""
    left = list(replies)
    return ScriptedPolicy(lambda call: left.pop(0))


class ScriptedExecution:
    """The work of one scheduler."""

    def __init__(self, policy: ScriptedPolicy) -> None:
        self._policy = policy
        self._waiting: list[tuple[Request, int]] = []
        self._cancelled: set[Request] = set()
        self.closed = False

    def submit(self, request: Request) -> None:
        self._policy.calls.append(request.call)
        self._waiting.append((request, self._policy.slow(request.call)))

    def cancel(self, request: Request) -> None:
        self._cancelled.add(request)

    def step(self) -> Sequence[Done]:
        self._policy.rounds.append(len(self._waiting))
        ready = [request for request, steps in self._waiting if steps <= 0 or request in self._cancelled]
        self._waiting = [(request, steps - 1) for request, steps in self._waiting if request not in ready]
        return [(request, self._answer(request)) for request in ready]

    def close(self) -> None:
        self.closed = True

    def _answer(self, request: Request) -> Reply | Failure:
        if request in self._cancelled:
            return Reply(finish="cancelled")
        try:
            answer = self._policy.reply(request.call)
        except Exception as error:
            answer = error
        if isinstance(answer, Exception):
            return Failure.of("policy", answer)
        reply = Reply(answer) if isinstance(answer, str) else answer
        if request.on_text is not None and reply.text:
            request.on_text(reply.text)
        return reply
