"""The interface of a policy, which computes the replies to calls.

Calls can be submitted at any time; each step advances all pending calls and returns the finished ones.
`memfold.backbone.policy` decodes in this process, `memfold.endpoint.policy` sends requests to an endpoint.  The calls
come from the scheduler (`memfold.core.scheduler`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from memfold.core.errors import Failure
from memfold.core.registry import AnySystem
from memfold.core.types import Call, Memory, Reply


@dataclass(eq=False)
class Request:
    """A call submitted to a policy, which passes the text of the reply to `on_text` as it is generated."""

    system: AnySystem
    memory: Memory
    call: Call
    on_text: Callable[[str], None] | None = None


Done = tuple[Request, Reply | Failure]


class Execution(Protocol):
    """The calls that a policy processes for one scheduler."""

    def submit(self, request: Request) -> None:
        """Add a call; it is processed from the next step on."""
        ...

    def cancel(self, request: Request) -> None:
        """End a call early; its partial reply is returned by a later step with finish reason `cancelled`."""
        ...

    def step(self) -> list[Done]:
        """Advance the pending calls and return the finished ones, each with its reply or a `Failure`."""
        ...

    def close(self) -> None:
        """Abandon all pending calls and release resources."""
        ...


class Policy(Protocol):
    """Computes the replies to calls."""

    def start(self) -> Execution:
        """Start an execution that shares no calls with any other."""
        ...


Ended = Callable[[Request, str], bool]


def complete(policy: Policy, requests: Sequence[Request], ended: Ended | None = None) -> list[Reply]:
    """Compute the replies to some calls, without a scheduler, and return them in the same order.

    `ended(request, text)` receives the text of a reply so far and returns True to stop that reply early.

    Raises:
        MemfoldError: the error of the first call that failed.
    """
    execution = policy.start()
    try:
        for request in requests:
            if ended is not None:
                request.on_text = _until(request, ended, execution)
            execution.submit(request)
        replies = dict(_outcomes(execution, len(requests)))
    finally:
        execution.close()
    return [replies[request] for request in requests]


def _until(request: Request, ended: Ended, execution: Execution) -> Callable[[str], None]:
    """Return a listener that cancels a call as soon as `ended` is true for its text."""
    pieces: list[str] = []

    def listen(text: str) -> None:
        pieces.append(text)
        if ended(request, "".join(pieces)):
            execution.cancel(request)

    return listen


def _outcomes(execution: Execution, count: int) -> Iterator[tuple[Request, Reply]]:
    """Yield `count` replies in the order in which they finish."""
    while count:
        for request, outcome in execution.step():
            if isinstance(outcome, Failure):
                raise outcome.exception()
            count -= 1
            yield request, outcome
