"""The requests that a policy works on for a scheduler, and the jobs that wait for each of them.

A request belongs to one job, unless jobs share replies (`memfold.core.job.SharedReplies`): then all that make an equal
call wait for the same request.
"""

from __future__ import annotations

from collections.abc import Callable

from memfold.core.errors import Failure
from memfold.core.job import Running
from memfold.core.policy import Execution, Request
from memfold.core.types import Reply


class Requests:
    """Submits the calls of jobs to an execution, and cancels them if no job waits for them."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._owners: dict[Request, list[Running]] = {}

    def __bool__(self) -> bool:
        return bool(self._owners)

    def submit(self, running: Running, index: int, on_text: Callable[[str], None] | None) -> None:
        """Submit a call of a job, or let the job wait for the request that another has made for an equal call."""
        call = running.calls[index]
        shared = running.shared(call)
        pending = None if shared is None else shared.pending.get(call)
        if pending is not None and pending not in running.requests:
            running.requests[pending] = index
            running.borrowed.add(len(running.steps) + index)
            self._owners[pending].append(running)
            return
        request = Request(running.job.system, running.job.memory, call, on_text)
        running.requests[request] = index
        self._owners[request] = [running]
        if shared is not None and pending is None:
            shared.pending[call] = request
        self._execution.submit(request)
        if running.cancelled:
            self._execution.cancel(request)

    def finish(self, request: Request, outcome: Reply | Failure) -> list[Running]:
        """Return the jobs that have waited for a request, and keep its reply for those that share it."""
        owners = self._owners.pop(request)
        shared = owners[0].job.shared
        if shared is not None and shared.withdraw(request) and isinstance(outcome, Reply):
            shared.replies[request.call] = outcome
        return owners

    def cancel(self, running: Running) -> None:
        """Cancel the pending requests of a job that has failed or is cancelled, unless another waits for them."""
        for request in running.requests:
            owners = self._owners.get(request)
            if owners and all(owner.cancelled or owner.finished for owner in owners):
                if running.job.shared is not None:
                    running.job.shared.withdraw(request)
                self._execution.cancel(request)
