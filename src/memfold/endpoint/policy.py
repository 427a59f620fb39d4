"""The policy of a model behind an address: each call is one message to an OpenAI-compatible chat endpoint.

A system renders a call as for a model in this process; its tokens are read back as text (`RemoteBackbone`), and the
endpoint puts the chat_template of its model around it.  Calls go out together, a bounded number at a time.  What may pass
(rate limits, failing servers, lost connections) is asked again after a growing wait, unless part of the reply was shown
already.  Left out: log-probabilities and slots, which need weights.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from memfold.backbone.policy import render_all
from memfold.core.config import require
from memfold.core.errors import CallError, ConfigError
from memfold.core.system import Inputs, MemorySystem
from memfold.core.types import Call, Finish, Limits, Memory, Reply, Usage
from memfold.endpoint.model import RemoteBackbone

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from memfold.endpoint.chat import Fault

CANCEL_SECONDS = 0.05  # how often a call in flight asks whether it is still wanted

OnToken = Callable[[int, str], None]
Cancel = Callable[[int], bool]


@dataclass(frozen=True)
class Retries:
    """How often a failed call is asked again, and the seconds before: `first`, doubled each time, at most `longest`."""

    count: int = 4
    first: float = 0.5
    longest: float = 60.0

    def __post_init__(self) -> None:
        require(self.count >= 0, "count", self.count, "0 or more retries")
        require(0 <= self.first <= self.longest, "first", self.first, f"0 to {self.longest:g} seconds")

    def pause(self, attempt: int, asked: float) -> float | None:
        """Seconds before asking again after attempt 0, 1, ...; None for giving up.

        Half of it is drawn at random, so that calls that failed together do not come back together.  `asked` is what
        the endpoint asks for: never less is waited, and nothing where it asks for more than `longest`.
        """
        if attempt >= self.count or asked > self.longest:
            return None
        wait = min(self.longest, self.first * 2.0**attempt)
        return max(asked, wait * random.uniform(0.5, 1.0))


@dataclass
class _Request:
    """A rendered call on its way; `said` is what of its reply was shown so far."""

    row: int
    call: Call
    inputs: Inputs
    message: str
    said: list[str] = field(default_factory=list)


class EndpointPolicy:
    """Replies from the endpoint of a `RemoteBackbone`, at most `concurrency` calls of one `generate` at a time.

    `timeout` is how many seconds an endpoint may be silent: until a reply that comes whole, between the pieces of one
    that is streamed.

    Raises:
        ConfigError: when the client package is not installed, or a setting is out of its range.
    """

    def __init__(
        self, backbone: RemoteBackbone, concurrency: int = 8, timeout: float = 600.0, retries: Retries | None = None
    ) -> None:
        require(concurrency >= 1, "concurrency", concurrency, "1 call or more")
        require(timeout > 0, "timeout", timeout, "more than 0 seconds")
        try:
            from memfold.endpoint.chat import Chat
        except ModuleNotFoundError as error:
            if error.name != "openai":
                raise
            raise ConfigError("an endpoint needs the package openai; pip install 'memfold[endpoint]'") from None
        self.backbone, self.concurrency, self.retries = backbone, concurrency, retries or Retries()
        self._chat = Chat(backbone.url, backbone.name, timeout)

    def generate(
        self,
        requests: Sequence[tuple[MemorySystem, Memory, Call]],
        on_token: OnToken | None = None,
        cancel: Cancel | None = None,
    ) -> list[Reply | Exception]:
        """One reply for each request, or why there is none.  Calls whose purpose is `answer` are streamed."""
        rendered, replies = render_all(requests, self.backbone)
        waiting: list[_Request] = []
        for row, inputs, call in rendered:
            if inputs.slots is not None or inputs.key_values is not None:
                replies[row] = ConfigError(f"model {self.backbone.name!r} is an endpoint and reads text, not slots")
            else:
                waiting.append(_Request(row, call, inputs, self.backbone.decode(inputs.tokens)))
        if waiting:
            received = _run(self._ask_all(waiting, on_token, cancel))
            for request, reply in zip(waiting, received, strict=True):
                replies[request.row] = reply
        return replies

    def ask(self, messages: Sequence[str], limits: Limits) -> list[Reply | CallError]:
        """One reply for each message as it stands, or why there is none: for questions without a memory."""
        waiting = [
            _Request(row, Call("message", (), limits), Inputs(self.backbone.encode(message), [], ()), message)
            for row, message in enumerate(messages)
        ]
        return _run(self._ask_all(waiting, None, None)) if waiting else []

    async def _ask_all(
        self, waiting: Sequence[_Request], on_token: OnToken | None, cancel: Cancel | None
    ) -> list[Reply | CallError]:
        places = asyncio.Semaphore(self.concurrency)
        async with self._chat.client() as client:

            async def ask(request: _Request) -> Reply | CallError:
                async with places:
                    return await self._ask(client, request, on_token)

            return await asyncio.gather(*(self._unless_cancelled(ask(each), each, cancel) for each in waiting))

    async def _unless_cancelled(
        self, work: Coroutine[Any, Any, Reply | CallError], request: _Request, cancel: Cancel | None
    ) -> Reply | CallError:
        """Wait for a reply as long as it is wanted; dropping it closes its connection and frees its place."""
        if cancel is None:
            return await work
        task = asyncio.create_task(work)
        while not task.done():
            if cancel(request.row):
                task.cancel()
                await asyncio.wait({task})
                return self._reply(request, "".join(request.said), "cancelled", None)
            await asyncio.wait({task}, timeout=CANCEL_SECONDS)
        return task.result()

    async def _ask(self, client: AsyncOpenAI, request: _Request, on_token: OnToken | None) -> Reply | CallError:
        """Ask until there is a reply, or no use in asking again."""
        from memfold.endpoint.chat import Fault

        def show(piece: str) -> None:
            request.said.append(piece)
            if on_token is not None:
                on_token(request.row, piece)

        listen = show if on_token is not None and request.call.purpose == "answer" else None
        attempt = 0
        while True:
            try:
                said = await self._chat.ask(client, request.message, request.call.limits, listen)
            except Fault as fault:
                pause = self.retries.pause(attempt, fault.wait) if fault.again and not request.said else None
                if pause is None:
                    return self._failed(fault, attempt + 1)
            else:
                return self._reply(request, said.text, said.finish, said.usage)
            await asyncio.sleep(pause)
            attempt += 1

    def _reply(self, request: _Request, text: str, finish: Finish, usage: Usage | None) -> Reply:
        usage = usage or Usage(len(request.inputs.tokens), len(self.backbone.encode(text)))
        return Reply(text, finish=finish, positions=request.inputs.memory_positions, usage=usage)

    def _failed(self, fault: Fault, attempts: int) -> CallError:
        where = f"endpoint {self.backbone.url}, model {self.backbone.name!r}"
        times = f", asked {attempts} times" if attempts > 1 else ""
        wait = f", it asks to wait {fault.wait:.0f} s" if fault.wait > self.retries.longest else ""
        return CallError("policy", f"{where}: {fault.what}{times}{wait}; {fault.advice}")


def _run(work: Coroutine[Any, Any, list[Reply | CallError]]) -> list[Reply | CallError]:
    """Run to the end, from plain code as from within an event loop (a notebook, a server)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as beside:
        return beside.submit(asyncio.run, work).result()
