"""One message to an OpenAI-compatible chat endpoint and its reply, by the `openai` client.

Every way in which that fails becomes a `Fault`: what happened, what to do, and whether asking again is of use.  The
client's own retries are off: they know nothing of replies that were shown already.  Left out: when to ask again, which
is the policy's (`memfold.endpoint.policy`).
"""

from __future__ import annotations

import email.utils
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from http.client import responses
from typing import Any

import openai

from memfold.core.errors import ConfigError
from memfold.core.types import Finish, SamplingParams, Usage

KEY = "OPENAI_API_KEY"
NO_KEY = "unset"  # the client insists on one, a server on this machine rarely does
CONNECT_SECONDS = 10.0
DETAIL_CHARACTERS = 200
PASSING = {408, 409, 429}  # and all from 500: statuses that may be gone a moment later
CHECK_ADDRESS = "check the address (it usually ends in /v1) and the model's name after #"
TOO_LONG = "if the text is too long for it, give --system retrieval or recurrent"
ADVICE = {
    400: TOO_LONG,
    401: f"set {KEY} to a key that it accepts",
    403: f"set {KEY} to a key that may use this model",
    404: CHECK_ADDRESS,
    413: TOO_LONG,
    422: TOO_LONG,
    429: "ask again later, or fewer questions at once",
}
UNREACHED = "check the address, and that it is running"
LATER = "look at the endpoint's own log, or ask again later"

OnPiece = Callable[[str], None]


@dataclass(frozen=True)
class Said:
    """What an endpoint replied; `usage` where it tells."""

    text: str
    finish: Finish
    usage: Usage | None


class Fault(Exception):
    """A call that failed; `again` says whether asking again may help, `wait` how many seconds the endpoint asks for."""

    def __init__(self, what: str, advice: str, again: bool = False, wait: float = 0.0) -> None:
        super().__init__(what)
        self.what, self.advice, self.again, self.wait = what, advice, again, wait


class Chat:
    """Conversations of one message with the model `model` at `url`.

    Raises:
        ConfigError: for a key that cannot be sent; it is never shown.
    """

    def __init__(self, url: str, model: str, timeout: float) -> None:
        self.url, self.model, self.timeout = url, model, timeout
        self.connect = min(timeout, CONNECT_SECONDS)
        self._key = os.environ.get(KEY, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise ConfigError(f"{KEY} holds characters that no key has; set it again")

    def client(self) -> openai.AsyncOpenAI:
        """A client, to be used within `async with`, in one event loop."""
        timeout = openai.Timeout(self.timeout, connect=self.connect)
        return openai.AsyncOpenAI(base_url=self.url, api_key=self._key or NO_KEY, timeout=timeout, max_retries=0)

    async def ask(
        self, client: openai.AsyncOpenAI, message: str, sampling: SamplingParams, on_piece: OnPiece | None
    ) -> Said:
        """The reply to a message, handed to `on_piece` as it is written where that is given.

        Raises:
            Fault: when there is none.
        """
        request: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": message}]}
        if on_piece is not None:
            request |= {"stream": True, "stream_options": {"include_usage": True}}
        create: Any = client.chat.completions.create
        try:
            answer = await create(**request, **_sampling(sampling))
        except (openai.APIError, ValueError) as error:
            raise self._fault(error) from error
        if on_piece is None:
            return _whole(answer)
        async with answer:
            kind = answer.response.headers.get("content-type", "something")
            return await _streamed(self._chunks(answer), kind, on_piece)

    async def _chunks(self, stream: Any) -> AsyncIterator[Any]:
        """The chunks of a stream; what goes wrong in reading them, apart from what a listener does with them."""
        try:
            async for chunk in stream:
                yield chunk
        except (openai.APIError, ValueError) as error:
            raise self._fault(error) from error

    def _fault(self, error: openai.APIError | ValueError) -> Fault:
        if isinstance(error, openai.APIStatusError):
            return self._refusal(error)
        if isinstance(error, openai.APITimeoutError):
            if type(error.__cause__).__name__ == "ConnectTimeout":
                return Fault(f"no connection within {self.connect:g} s", UNREACHED, again=True)
            return Fault(f"no answer within {self.timeout:g} s", LATER, again=True)
        if isinstance(error, openai.APIConnectionError):
            reason = self._detail(str(error.__cause__ or error))
            return Fault(f"the connection failed ({reason})", UNREACHED, again=True)
        if isinstance(error, openai.APIError):
            return Fault(f"it broke off with an error ({self._detail(error.message)})", LATER)
        return Fault(f"it sent something that is not JSON ({self._detail(str(error))})", CHECK_ADDRESS)

    def _refusal(self, error: openai.APIStatusError) -> Fault:
        status = error.status_code
        told = error.body.get("message") if isinstance(error.body, Mapping) else error.body
        title = f"{status} {responses.get(status, '')}".strip()
        detail = self._detail(str(told)) if told else ""
        again = status in PASSING or status >= 500
        advice = ADVICE.get(status, LATER if again else CHECK_ADDRESS)
        return Fault(f"{title} ({detail})" if detail else title, advice, again, _retry_after(error.response.headers))

    def _detail(self, text: str) -> str:
        """What a server said, on one line of bounded length, without the key that some of them repeat."""
        line = " ".join(text.split())
        line = line.replace(self._key, "***") if self._key else line
        return line if len(line) <= DETAIL_CHARACTERS else f"{line[:DETAIL_CHARACTERS]} ..."


def _sampling(sampling: SamplingParams) -> dict[str, Any]:
    """The sampling of a call as parameters of a request; those that not every endpoint knows only where they matter."""
    parameters: dict[str, Any] = {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature}
    if sampling.temperature > 0:
        parameters |= {"seed": sampling.seed, "top_p": sampling.top_p}
    extra: dict[str, Any] = {"top_k": sampling.top_k} if sampling.top_k else {}
    if sampling.repetition_penalty != 1:
        extra["repetition_penalty"] = sampling.repetition_penalty
    return parameters | {"extra_body": extra} if extra else parameters


def _whole(completion: Any) -> Said:
    choice = _choice(completion)
    if choice is None:
        what = "text that is not JSON" if isinstance(completion, str) else "a reply without choices"
        raise Fault(f"it sent {what}", CHECK_ADDRESS)
    content = getattr(getattr(choice, "message", None), "content", None)
    return Said(content if isinstance(content, str) else "", _finish(choice), _usage(completion))


async def _streamed(stream: AsyncIterator[Any], kind: str, on_piece: OnPiece) -> Said:
    """A reply from its chunks; `kind` is the type of content that they are in."""
    pieces: list[str] = []
    finish: Finish | None = None
    usage: Usage | None = None
    chunks = begun = 0
    async for chunk in stream:
        chunks += 1
        usage = _usage(chunk) or usage
        choice = _choice(chunk)
        if choice is None:  # the last chunk holds the usage alone
            continue
        begun += 1
        piece = getattr(getattr(choice, "delta", None), "content", None)
        if isinstance(piece, str) and piece:
            pieces.append(piece)
            on_piece(piece)
        finish = _finish(choice) if getattr(choice, "finish_reason", None) else finish
    if not chunks and "event-stream" not in kind:
        raise Fault(f"it sent {kind}, not a stream", CHECK_ADDRESS)
    if chunks and not begun:
        raise Fault("it sent a reply without choices", CHECK_ADDRESS)
    if finish is None:
        raise Fault(f"the reply broke off after {sum(map(len, pieces))} characters", LATER, again=True)
    return Said("".join(pieces), finish, usage)


def _choice(answer: Any) -> Any:
    """The first choice of an answer or a chunk; None where there is none, in whatever shape it came."""
    choices = getattr(answer, "choices", None)
    return choices[0] if isinstance(choices, list) and choices else None


def _finish(choice: Any) -> Finish:
    reason = getattr(choice, "finish_reason", None)
    if reason == "content_filter":
        raise Fault("its content filter stopped the reply", "ask in other words, or another model")
    return "length" if reason == "length" else "stop"


def _usage(answer: Any) -> Usage | None:
    found = getattr(answer, "usage", None)
    prompt, reply = getattr(found, "prompt_tokens", None), getattr(found, "completion_tokens", None)
    return Usage(prompt, reply) if isinstance(prompt, int) and isinstance(reply, int) else None


def _retry_after(headers: Mapping[str, str]) -> float:
    """The seconds that an endpoint asks to wait, given as such or as a date; 0 where it does not say."""
    value = headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return 0.0
