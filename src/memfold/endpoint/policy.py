"""The policy of a model behind an endpoint: each call is one message to an OpenAI-compatible chat endpoint.

A system renders a call as it does for a local model; the tokens are decoded to text (`EndpointModel`), and the endpoint
applies its own chat template.  A separate thread sends the requests, a limited number of them concurrently.  Transient
failures (rate limits, server errors, lost connections) are retried with exponential backoff, unless a part of the reply
has already been streamed.  Log-probabilities, scores and slots need weights and are not supported.
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
from memfold.core.policy import Done, Execution, Request
from memfold.core.system import Rendered
from memfold.core.thinking import ReplyStream, split_thinking
from memfold.core.types import Finish, Generate, Reply, SamplingParams, Usage
from memfold.core.window import shorten
from memfold.endpoint.model import EndpointModel

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from memfold.endpoint.chat import Chat, Fault


@dataclass(frozen=True)
class Retries:
    """Number of retries of a failed call, and the backoff: `first` seconds, doubled each time, at most `longest`."""

    count: int = 4
    first: float = 0.5
    longest: float = 60.0

    def __post_init__(self) -> None:
        require(self.count >= 0, "count", self.count, "0 or more retries")
        require(0 <= self.first <= self.longest, "first", self.first, f"0 to {self.longest:g} seconds")

    def pause(self, attempt: int, requested: float) -> float | None:
        """Return the seconds to wait after attempt 0, 1, ..., or None to give up.

        Half of the delay is random, so that calls that failed together are not retried together.  `requested` is the
        delay requested by the endpoint: the wait is at least that long, and above `longest` the call fails.
        """
        if attempt >= self.count or requested > self.longest:
            return None
        backoff = min(self.longest, self.first * 2.0**attempt)
        return max(requested, backoff * random.uniform(0.5, 1.0))


@dataclass(frozen=True)
class _Message:
    """The message of one call; `received` holds the pieces of its reply, `delivered` those passed to the listener.

    `request` is None for a message without a memory.
    """

    text: str
    sampling: SamplingParams
    request: Request | None = None
    on_text: Callable[[str], None] | None = None
    prompt_tokens: int = 0
    memory_positions: int = 0
    received: list[str] = field(default_factory=list)
    delivered: list[str] = field(default_factory=list)

    def receive(self, text: str) -> None:
        """Record a piece of the reply and pass it to the listener."""
        self.received.append(text)
        if self.on_text is not None:
            self.on_text(text)


class EndpointPolicy:
    """Sends calls to the endpoint of an `EndpointModel`, at most `max_concurrency` of them at a time.

    `timeout` is the maximum time in seconds without data from the endpoint: until the whole reply, or between the
    pieces of a streamed reply.  `key` is an API key other than that of the environment.  `on_completion` receives the
    id of each completion, in the order in which they end and in the thread that sends the requests.

    Raises:
        ConfigError: if the `openai` package is not installed, or a setting is out of range.
    """

    def __init__(
        self,
        model: EndpointModel,
        max_concurrency: int = 8,
        timeout: float = 600.0,
        retries: Retries | None = None,
        key: str | None = None,
        on_completion: Callable[[str], None] | None = None,
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
        self.on_completion = on_completion
        self.chat: Chat = Chat(model.url, model.name, timeout, model.left_out, key)

    def start(self) -> Execution:
        """Start an execution with its own connections."""
        return EndpointExecution(self)

    def ask(self, messages: Sequence[str], sampling: SamplingParams) -> list[Reply | CallError]:
        """Send messages that need no memory; return a reply or an error for each, in order."""
        calls = _Calls(self)
        try:
            futures = [
                calls.send(_Message(text, sampling, prompt_tokens=len(self.model.encode(text)))) for text in messages
            ]
            return [future.result() for future in futures]
        finally:
            calls.close()


class EndpointExecution:
    """The calls of one scheduler.

    Text and replies pass from the request thread through a queue, so listeners run in the thread that calls `step`.
    """

    def __init__(self, policy: EndpointPolicy) -> None:
        self._policy = policy
        self._calls: _Calls | None = None
        self._waiting: dict[Request, _Message] = {}
        self._events: queue.SimpleQueue[Callable[[], Done | None]] = queue.SimpleQueue()
        self._sent: dict[Request, tuple[_Message, Future[Reply | CallError]]] = {}

    def submit(self, request: Request) -> None:
        """Queue a call for the next step; a call that cannot be rendered as text fails."""
        try:
            self._waiting[request] = self._message(request)
        except Exception as error:  # must not affect the other calls
            failure = Failure.of("policy", error)
            self._events.put(lambda: (request, failure))

    def cancel(self, request: Request) -> None:
        """Close the connection of a call; a call that has not been sent is dropped."""
        message = self._waiting.pop(request, None)
        if message is not None:
            reply = self._cancelled(message)
            self._events.put(lambda: (request, reply))
        elif request in self._sent:
            self._sent[request][1].cancel()

    def step(self) -> list[Done]:
        """Send the queued calls, wait for at least one event, and return the calls that finished."""
        waiting, self._waiting = self._waiting, {}
        for request, message in waiting.items():
            self._send(request, message)
        outcomes = [self._events.get()()]
        while not self._events.empty():
            outcomes.append(self._events.get()())
        return [outcome for outcome in outcomes if outcome is not None]

    def close(self) -> None:
        """Abandon all calls and close the connections."""
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
            raise ConfigError(
                f"model {model.name!r} is an endpoint: it reads and writes text only; use a system whose memory is text"
            )
        return _Message(
            text=model.decode(rendered.tokens),
            sampling=wants.sampling,
            request=request,
            on_text=self._listener(request) if request.system.may_answer(request.call) else None,
            prompt_tokens=len(rendered.tokens),
            memory_positions=rendered.memory_positions,
        )

    def _listener(self, request: Request) -> Callable[[str], None] | None:
        if request.on_text is None:
            return None
        stream = ReplyStream(request.on_text)

        def deliver(text: str) -> None:
            if request in self._sent:  # text that arrives after the reply was returned as cancelled is dropped
                delivered = self._sent[request][0].delivered
                delivered.append(text)
                stream.update("".join(delivered))

        return lambda text: self._events.put(lambda: deliver(text))

    def _done(self, request: Request) -> Done:
        message, future = self._sent.pop(request)
        if future.cancelled():
            return request, self._cancelled(message)
        outcome = future.result()
        return request, Failure.of("policy", outcome) if isinstance(outcome, CallError) else outcome

    def _cancelled(self, message: _Message) -> Reply:
        return _reply(self._policy.model, message, "".join(message.delivered), "cancelled", None)


class _Calls:
    """A thread with an event loop that sends requests."""

    def __init__(self, policy: EndpointPolicy) -> None:
        self._policy = policy
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="memfold-endpoint", daemon=True)
        self._thread.start()
        self._slots = asyncio.Semaphore(policy.max_concurrency)
        self._client: AsyncOpenAI | None = None

    def send(self, message: _Message) -> Future[Reply | CallError]:
        """Send a message; the future resolves to the reply or the final error."""
        return asyncio.run_coroutine_threadsafe(self._ask(message), self._loop)

    def close(self) -> None:
        """Cancel pending requests, close the connections and end the thread."""
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
            with suppress(Exception):  # errors on closing are ignored
                await self._client.close()
        self._loop.stop()

    async def _ask(self, message: _Message) -> Reply | CallError:
        """Send a message until it has a reply or an error that is not retried."""
        async with self._slots:
            for attempt in count():
                outcome = await self._attempt(message, attempt)
                if not isinstance(outcome, float):
                    return outcome
                await asyncio.sleep(outcome)
        raise AssertionError("the attempts end with a reply or an error")

    async def _attempt(self, message: _Message, attempt: int) -> Reply | CallError | float:
        """Send a message once; return the reply, the final error, or the seconds to wait before the next attempt."""
        from memfold.endpoint.chat import Fault

        policy = self._policy
        self._client = self._client or policy.chat.client()
        listen = None if message.on_text is None else message.receive
        try:
            answer = await policy.chat.ask(self._client, message.text, message.sampling, listen)
        except Fault as fault:
            retried = fault.again and not message.received
            pause = policy.retries.pause(attempt, fault.wait) if retried else None
            return _failed(policy, message, fault, attempt + 1) if pause is None else pause
        if policy.on_completion is not None:
            policy.on_completion(answer.id)
        return _reply(policy.model, message, answer.text, answer.finish, answer.usage)


def _reply(model: EndpointModel, message: _Message, text: str, finish: Finish, usage: Usage | None) -> Reply:
    usage = usage or Usage(message.prompt_tokens, len(model.encode(text)))
    thinking, reply = split_thinking(text)
    return Reply(reply, finish=finish, positions=message.memory_positions, usage=usage, thinking=thinking)


def _failed(policy: EndpointPolicy, message: _Message, fault: Fault, attempts: int) -> CallError:
    endpoint = f"endpoint {policy.model.url}, model {policy.model.name!r}"
    tried = f", after {attempts} attempts" if attempts > 1 else ""
    wait = f", with a requested wait of {fault.wait:.0f} s" if fault.wait > policy.retries.longest else ""
    request, advice = message.request, fault.advice
    if fault.too_long and request is not None:  # the window is unknown, so the advised call is at most half as long
        room = max(1, message.memory_positions // 2)
        shorter = shorten(request.system.name, policy.model, request.memory.token_count, room)
        advice = f"if the text is too long for the model, {shorter}"
    return CallError("policy", f"{endpoint}: {fault.what}{tried}{wait}; {advice}")
