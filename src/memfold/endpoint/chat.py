"""Sends one message to an OpenAI-compatible chat endpoint with the `openai` client and receives the reply.

Every failure is raised as a `Fault`, which says what happened, what to do, and whether a retry may succeed.  The
policy (`memfold.endpoint.policy`) decides about retries; those of the client are disabled, because they would repeat
replies that have been streamed in part.
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
NO_KEY = "unset"  # the client requires a key, even for a local server that needs none
CONNECT_SECONDS = 10.0
DETAIL_CHARACTERS = 200
TRANSIENT = {408, 409, 429}  # statuses that are retried, in addition to all from 500
CHECK_ADDRESS = "check the address (it usually ends in /v1) and the model's name after #"
TOO_LONG = "if the text is too long for the model, use --system retrieval or recurrent"
ADVICE = {
    400: TOO_LONG,
    401: f"set {KEY} to a key that the endpoint accepts",
    403: f"set {KEY} to a key with access to this model",
    404: CHECK_ADDRESS,
    413: TOO_LONG,
    422: TOO_LONG,
    429: "try again later, or ask fewer questions at once",
}
UNREACHED = "check the address, and that the endpoint is running"
LATER = "check the log of the endpoint, or try again later"

OnPiece = Callable[[str], None]


@dataclass(frozen=True)
class Said:
    """The reply of an endpoint; `usage` is None if the endpoint does not report it."""

    text: str
    finish: Finish
    usage: Usage | None


class Fault(Exception):
    """A failed request: what happened and what to do.

    `again` says whether a retry may succeed; `wait` is the delay in seconds that the endpoint requests.
    """

    def __init__(self, what: str, advice: str, again: bool = False, wait: float = 0.0) -> None:
        super().__init__(what)
        self.what, self.advice, self.again, self.wait = what, advice, again, wait


class Chat:
    """Single-message conversations with the model `model` of the endpoint at `url`; `timeout` is in seconds.

    Raises:
        ConfigError: for an API key that cannot be sent; the message does not contain the key.
    """

    def __init__(self, url: str, model: str, timeout: float) -> None:
        self.url, self.model, self.timeout = url, model, timeout
        self.connect = min(timeout, CONNECT_SECONDS)
        self._key = os.environ.get(KEY, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise ConfigError(f"{KEY} contains a character that is not printable ASCII; set it to a valid key")

    def client(self) -> openai.AsyncOpenAI:
        """Create a client, for use in a single event loop."""
        timeout = openai.Timeout(self.timeout, connect=self.connect)
        return openai.AsyncOpenAI(base_url=self.url, api_key=self._key or NO_KEY, timeout=timeout, max_retries=0)

    async def ask(
        self, client: openai.AsyncOpenAI, message: str, sampling: SamplingParams, on_piece: OnPiece | None
    ) -> Said:
        """Send a message and return the reply, streaming it to `on_piece` if that is given.

        Raises:
            Fault: if the request fails or the response is invalid.
        """
        request: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": message}]}
        if on_piece is not None:
            request |= {"stream": True, "stream_options": {"include_usage": True}}
        create: Any = client.chat.completions.create
        try:
            completion = await create(**request, **_sampling(sampling))
        except (openai.APIError, ValueError) as error:
            raise self._fault(error) from error
        if on_piece is None:
            return _whole(completion)
        async with completion:
            content_type = completion.response.headers.get("content-type", "of an unknown content type")
            return await _streamed(self._chunks(completion), content_type, on_piece)

    async def _chunks(self, stream: Any) -> AsyncIterator[Any]:
        """Yield the chunks of a stream; only errors of reading it become a `Fault`, not those of a listener."""
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
            return Fault(f"no response within {self.timeout:g} s", LATER, again=True)
        if isinstance(error, openai.APIConnectionError):
            reason = self._detail(str(error.__cause__ or error))
            return Fault(f"the connection failed ({reason})", UNREACHED, again=True)
        if isinstance(error, openai.APIError):
            return Fault(f"the endpoint reported an error ({self._detail(error.message)})", LATER)
        return Fault(f"the response is not valid JSON ({self._detail(str(error))})", CHECK_ADDRESS)

    def _refusal(self, error: openai.APIStatusError) -> Fault:
        status = error.status_code
        message = error.body.get("message") if isinstance(error.body, Mapping) else error.body
        title = f"{status} {responses.get(status, '')}".strip()
        detail = self._detail(str(message)) if message else ""
        again = status in TRANSIENT or status >= 500
        advice = ADVICE.get(status, LATER if again else CHECK_ADDRESS)
        return Fault(f"{title} ({detail})" if detail else title, advice, again, _retry_after(error.response.headers))

    def _detail(self, text: str) -> str:
        """Return an error text on one line of limited length, with the API key masked."""
        line = " ".join(text.split())
        line = line.replace(self._key, "***") if self._key else line
        return line if len(line) <= DETAIL_CHARACTERS else f"{line[:DETAIL_CHARACTERS]} ..."


def _sampling(sampling: SamplingParams) -> dict[str, Any]:
    """Return sampling parameters as request parameters; those not supported everywhere only if they are set."""
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
        problem = "is not valid JSON" if isinstance(completion, str) else "has no choices"
        raise Fault(f"the response {problem}", CHECK_ADDRESS)
    content = getattr(getattr(choice, "message", None), "content", None)
    return Said(content if isinstance(content, str) else "", _finish(choice), _usage(completion))


async def _streamed(stream: AsyncIterator[Any], content_type: str, on_piece: OnPiece) -> Said:
    """Assemble a reply from the chunks of a stream with this content type."""
    pieces: list[str] = []
    finish: Finish | None = None
    usage: Usage | None = None
    chunks = chunks_with_choice = 0
    async for chunk in stream:
        chunks += 1
        usage = _usage(chunk) or usage
        choice = _choice(chunk)
        if choice is None:  # the last chunk has the usage only
            continue
        chunks_with_choice += 1
        piece = getattr(getattr(choice, "delta", None), "content", None)
        if isinstance(piece, str) and piece:
            pieces.append(piece)
            on_piece(piece)
        finish = _finish(choice) if getattr(choice, "finish_reason", None) else finish
    if not chunks and "event-stream" not in content_type:
        raise Fault(f"the response is {content_type}, not an event stream", CHECK_ADDRESS)
    if chunks and not chunks_with_choice:
        raise Fault("the response has no choices", CHECK_ADDRESS)
    if finish is None:
        raise Fault(f"the reply was cut off after {sum(map(len, pieces))} characters", LATER, again=True)
    return Said("".join(pieces), finish, usage)


def _choice(response: Any) -> Any:
    """Return the first choice of a response or a chunk; None if it has none or is malformed."""
    choices = getattr(response, "choices", None)
    return choices[0] if isinstance(choices, list) and choices else None


def _finish(choice: Any) -> Finish:
    reason = getattr(choice, "finish_reason", None)
    if reason == "content_filter":
        raise Fault("the content filter stopped the reply", "rephrase the question, or use another model")
    return "length" if reason == "length" else "stop"


def _usage(response: Any) -> Usage | None:
    usage = getattr(response, "usage", None)
    prompt, reply = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
    return Usage(prompt, reply) if isinstance(prompt, int) and isinstance(reply, int) else None


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the delay in seconds of a `Retry-After` header, given in seconds or as a date; 0 without one."""
    value = headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return 0.0
