"""The policy of a model behind an address: each call is one message to an OpenAI-compatible chat endpoint.

A system renders a call as for a model in this process; its tokens are read back as text (`EndpointModel`), and the
endpoint applies its own chat template.  Calls go out together, a bounded number at a time, from a thread of their own.
Transient failures (rate limits, server errors, lost connections) are retried with exponential backoff, unless part of
the reply has been shown already.  Left out: log-probabilities, scores and slots, which need weights.
"""

from __future__ import annotations

import asyncio
import queue
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from memfold.core.config import require
from memfold.core.errors import CallError, ConfigError, Failure
from memfold.core.policy import ANSWER, Done, Execution, Request
from memfold.core.system import Rendered
from memfold.core.types import Finish, Generate, Reply, SamplingParams, Usage
from memfold.endpoint.model import EndpointModel

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from memfold.endpoint.chat import Chat, Fault


@dataclass(frozen=True)
class Retries:
    """How often a failed call is retried, and the backoff in seconds: `first`, doubled each time, at most `longest`."""

    count: int = 4
    first: float = 0.5
    longest: float = 60.0

    def __post_init__(self) -> None:
        require(self.count >= 0, "count", self.count, "0 or more retries")
        require(0 <= self.first <= self.longest, "first", self.first, f"0 to {self.longest:g} seconds")

    def pause(self, attempt: int, requested: float) -> float | None:
        """Seconds to wait after attempt 0, 1, ...; None to give up.

        Half of it is drawn at random, so that calls that failed together do not come back together.  `requested` is
        what the endpoint asks for: the wait is never shorter, and where it asks for more than `longest` the call fails.
        """
        if attempt >= self.count or requested > self.longest:
            return None
        wait = min(self.longest, self.first * 2.0**attempt)
        return max(requested, wait * random.uniform(0.5, 1.0))


@dataclass(frozen=True)
class _Message:
    """What is sent for one call; `shown` is what of its reply has come so far, `heard` what its listener was given."""

    text: str
    sampling: SamplingParams
    on_text: Callable[[str], None] | None = None
    prompt_tokens: int = 0
    memory_positions: int = 0
    shown: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)

    def show(self, text: str) -> None:
        """Hand a piece of the reply on."""
        self.shown.append(text)
        if self.on_text is not None:
            self.on_text(text)


class EndpointPolicy:
    """Replies from the endpoint of an `EndpointModel`, at most `max_concurrency` calls at a time.

    `timeout` is how many seconds an endpoint may be silent: until a reply that comes whole, between the pieces of one
    that is streamed.

    Raises:
        ConfigError: when the client package is not installed, or a setting is out of its range.
    """

    def __init__(
        self, model: EndpointModel, max_concurrency: int = 8, timeout: float = 600.0, retries: Retries | None = None
    ) -> None:
        require(max_concurrency >= 1, "max_concurrency", max_concurrency, "1 call or more")
        require(timeout > 0, "timeout", timeout, "more than 0 seconds")
        try:
            from memfold.endpoint.chat import Chat
        except ModuleNotFoundError as error:
            if error.name != "openai":
                raise
            raise ConfigError("an endpoint needs the package openai; pip install 'memfold[endpoint]'") from None
        self.model, self.max_concurrency, self.retries = model, max_concurrency, retries or Retries()
        self.chat: Chat = Chat(model.url, model.name, timeout)

    def start(self) -> Execution:
        """New work, with connections of its own."""
        return EndpointExecution(self)

    def ask(self, messages: Sequence[str], sampling: SamplingParams) -> list[Reply | CallError]:
        """One reply for each message as it stands, or why there is none: for questions without a memory."""
        calls = _Calls(self)
        try:
            futures = [
                calls.send(_Message(text, sampling, prompt_tokens=len(self.model.encode(text)))) for text in messages
            ]
            return [future.result() for future in futures]
        finally:
            calls.close()


class EndpointExecution:
    """Calls of one scheduler.  Text and replies come from the thread of the calls through a queue, so that listeners
    run in the thread that steps."""

    def __init__(self, policy: EndpointPolicy) -> None:
        self._policy = policy
        self._calls: _Calls | None = None
        self._waiting: dict[Request, _Message] = {}
        self._events: queue.SimpleQueue[Callable[[], Done | None]] = queue.SimpleQueue()
        self._sent: dict[Request, tuple[_Message, Future[Reply | CallError]]] = {}

    def submit(self, request: Request) -> None:
        """Send it at the next step, unless it cannot be rendered as text."""
        try:
            self._waiting[request] = self._message(request)
        except Exception as error:  # one call that cannot be rendered leaves the others alone
            failure = Failure.of("policy", error)
            self._events.put(lambda: (request, failure))

    def cancel(self, request: Request) -> None:
        """Close its connection; a call that has not been sent never is."""
        message = self._waiting.pop(request, None)
        if message is not None:
            reply = self._cancelled(message)
            self._events.put(lambda: (request, reply))
        elif request in self._sent:
            self._sent[request][1].cancel()

    def step(self) -> list[Done]:
        """Send what waits; wait for something to happen, then take in all that has."""
        waiting, self._waiting = self._waiting, {}
        for request, message in waiting.items():
            self._send(request, message)
        done = [self._events.get()()]
        while not self._events.empty():
            done.append(self._events.get()())
        return [one for one in done if one is not None]

    def close(self) -> None:
        """Drop all connections."""
        if self._calls is not None:
            self._calls.close()

    def _send(self, request: Request, message: _Message) -> None:
        self._calls = self._calls or _Calls(self._policy)
        future = self._calls.send(message)
        self._sent[request] = message, future
        future.add_done_callback(lambda _: self._events.put(lambda: self._done(request)))

    def _message(self, request: Request) -> _Message:
        model, wants = self._policy.model, request.call.wants
        rendered: Rendered = request.system.render(request.memory, request.call, model)
        if not isinstance(wants, Generate) or rendered.slots is not None or rendered.prefix is not None:
            raise ConfigError(f"model {model.name!r} is an endpoint: it reads and writes text, and nothing else")
        return _Message(
            text=model.decode(rendered.tokens),
            sampling=wants.sampling,
            on_text=self._listener(request) if request.call.purpose == ANSWER else None,
            prompt_tokens=len(rendered.tokens),
            memory_positions=rendered.memory_positions,
        )

    def _listener(self, request: Request) -> Callable[[str], None] | None:
        listen = request.on_text
        if listen is None:
            return None

        def hear(text: str) -> None:
            if request in self._sent:  # what comes after a cancelled reply was given back is dropped
                self._sent[request][0].heard.append(text)
                listen(text)

        return lambda text: self._events.put(lambda: hear(text))

    def _done(self, request: Request) -> Done:
        message, future = self._sent.pop(request)
        if future.cancelled():
            return request, self._cancelled(message)
        outcome = future.result()
        return request, Failure.of("policy", outcome) if isinstance(outcome, CallError) else outcome

    def _cancelled(self, message: _Message) -> Reply:
        return _reply(self._policy.model, message, "".join(message.heard), "cancelled", None)


class _Calls:
    """A thread with an event loop, in which calls go out."""

    def __init__(self, policy: EndpointPolicy) -> None:
        self._policy = policy
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="memfold-endpoint", daemon=True)
        self._thread.start()
        self._slots = asyncio.Semaphore(policy.max_concurrency)
        self._client: AsyncOpenAI | None = None

    def send(self, message: _Message) -> Future[Reply | CallError]:
        """The reply, or why there is none, once it is there."""
        return asyncio.run_coroutine_threadsafe(self._ask(message), self._loop)

    def close(self) -> None:
        """Cancel what is under way, close the connections, end the thread."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end(), self._loop)
            self._thread.join()
            self._loop.close()

    async def _end(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._client is not None:
            with suppress(Exception):  # a connection that cannot be closed well is closed anyway
                await self._client.close()
        self._loop.stop()

    async def _ask(self, message: _Message) -> Reply | CallError:
        """Ask until there is a reply, or no use in retrying."""
        async with self._slots:
            for attempt in count():
                outcome = await self._attempt(message, attempt)
                if not isinstance(outcome, float):
                    return outcome
                await asyncio.sleep(outcome)
        raise AssertionError("attempts end with a reply or an error")

    async def _attempt(self, message: _Message, attempt: int) -> Reply | CallError | float:
        """A reply, the error that is final, or the seconds after which to try again."""
        from memfold.endpoint.chat import Fault

        policy = self._policy
        self._client = self._client or policy.chat.client()
        listen = None if message.on_text is None else message.show
        try:
            said = await policy.chat.ask(self._client, message.text, message.sampling, listen)
        except Fault as fault:
            retried = fault.again and not message.shown
            pause = policy.retries.pause(attempt, fault.wait) if retried else None
            return _failed(policy, fault, attempt + 1) if pause is None else pause
        return _reply(policy.model, message, said.text, said.finish, said.usage)


def _reply(model: EndpointModel, message: _Message, text: str, finish: Finish, usage: Usage | None) -> Reply:
    usage = usage or Usage(message.prompt_tokens, len(model.encode(text)))
    return Reply(text, finish=finish, positions=message.memory_positions, usage=usage)


def _failed(policy: EndpointPolicy, fault: Fault, attempts: int) -> CallError:
    where = f"endpoint {policy.model.url}, model {policy.model.name!r}"
    times = f", asked {attempts} times" if attempts > 1 else ""
    wait = f", it asks to wait {fault.wait:.0f} s" if fault.wait > policy.retries.longest else ""
    return CallError("policy", f"{where}: {fault.what}{times}{wait}; {fault.advice}")
