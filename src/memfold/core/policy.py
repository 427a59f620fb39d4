"""What makes replies: a policy takes calls in, works on all of them together, and gives back what is done.

The local one (`memfold.backbone.policy`) decodes in this process, that of an endpoint (`memfold.endpoint.policy`) sends
messages.  Left out: where calls come from (`memfold.core.scheduler`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from memfold.core.errors import Failure
from memfold.core.registry import AnySystem
from memfold.core.types import Call, Memory, Reply

ANSWER = "answer"  # the purpose of calls whose replies are streamed to a user


@dataclass(eq=False)
class Request:
    """A call on its way to a policy, which hands the text of the reply to `on_text` as it is written."""

    system: AnySystem
    memory: Memory
    call: Call
    on_text: Callable[[str], None] | None = None


Done = tuple[Request, Reply | Failure]


class Execution(Protocol):
    """The work that a policy does for one scheduler."""

    def submit(self, request: Request) -> None:
        """Take a call in; it joins the work at the next step."""
        ...

    def cancel(self, request: Request) -> None:
        """End a call early: its reply, with what there is of it, comes back with finish `cancelled`."""
        ...

    def step(self) -> list[Done]:
        """Do one piece of work; the calls that are done, each with its reply or why there is none."""
        ...

    def close(self) -> None:
        """Drop whatever is not done."""
        ...


class Policy(Protocol):
    """What makes replies."""

    def start(self) -> Execution:
        """New work, apart from any other."""
        ...


Ended = Callable[[Request, str], bool]


def complete(policy: Policy, requests: Sequence[Request], ended: Ended | None = None) -> list[Reply]:
    """The replies to some calls, in their order, for callers that have no question to ask.

    `ended(request, text)` says of what a reply has come to so far whether it is enough.

    Raises:
        MemfoldError: what the first call that failed failed with.
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
    """A listener that cancels a call once its text is enough."""
    pieces: list[str] = []

    def listen(text: str) -> None:
        pieces.append(text)
        if ended(request, "".join(pieces)):
            execution.cancel(request)

    return listen


def _outcomes(execution: Execution, count: int) -> Iterator[tuple[Request, Reply]]:
    """So many replies as they come."""
    while count:
        for request, outcome in execution.step():
            if isinstance(outcome, Failure):
                raise outcome.exception()
            count -= 1
            yield request, outcome
