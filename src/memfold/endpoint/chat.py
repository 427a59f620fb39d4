"""Sends one message to an OpenAI-compatible chat endpoint with the `openai` client and receives the reply.

Every failure is raised as a `Fault`, which says what happened, what to do, and whether a retry may succeed.  The
policy (`memfold.endpoint.policy`) decides about retries; those of the client are disabled, because they would repeat
replies that have been streamed in part.
"""

from __future__ import annotations

import email.utils
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import openai
from openai.types.chat import ChatCompletion

from memfold.core.errors import ConfigError
from memfold.core.types import Finish, SamplingParams, Usage
from memfold.endpoint.refusal import CHECK_ADDRESS, KEY, LATER, refusal

NO_KEY = "unset"  # the client requires a key, even for a local server that needs none
CONNECT_SECONDS = 10.0
DETAIL_CHARACTERS = 200
UNREACHED = "check the address, and that the endpoint is running"
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
RENAMED = {"max_tokens": "max_completion_tokens"}  # parameters that newer models take under another name
UNLISTED = ("top_k", "repetition_penalty")  # parameters that the client does not know
CHANGING = ("temperature", "top_p", "seed", *UNLISTED, *RENAMED.values())  # parameters whose lack changes replies

LOG = logging.getLogger(__name__)

OnPiece = Callable[[str], None]


@dataclass(frozen=True)
class Said:
    """The reply of an endpoint; `usage` is None if the endpoint does not report it, `id` empty if it gives none."""

    text: str
    finish: Finish
    usage: Usage | None
    id: str = ""


class Fault(Exception):
    """A failed request: what happened and what to do.

    `again` says whether a retry may succeed; `wait` is the delay in seconds that the endpoint requests; `too_long` says
    that the message may be too long for the model.
    """

    def __init__(self, what: str, advice: str, again: bool = False, wait: float = 0.0, too_long: bool = False) -> None:
        super().__init__(what)
        self.what, self.advice, self.again, self.wait, self.too_long = what, advice, again, wait, too_long


class Chat:
    """Single-message conversations with the model `model` of the endpoint at `url`; `timeout` is in seconds.

    `left_out` holds the parameters that the model does not take.  A parameter that is refused is added to it, and the
    request is sent again.  The API key is `key`, or that of the environment variable `KEY`.

    Raises:
        ConfigError: for an API key that cannot be sent; the message does not contain the key.
    """

    def __init__(
        self, url: str, model: str, timeout: float, left_out: set[str] | None = None, key: str | None = None
    ) -> None:
        self.url, self.model, self.timeout = url, model, timeout
        self.left_out = set[str]() if left_out is None else left_out
        self.connect = min(timeout, CONNECT_SECONDS)
        self._key = (os.environ.get(KEY, "") if key is None else key).strip()
        if not (self._key.isascii() and self._key.isprintable()):
            name = KEY if key is None else "the API key"
            raise ConfigError(f"{name} contains a character that is not printable ASCII; set it to a valid key")

    def client(self) -> openai.AsyncOpenAI:
        """Create a client, for use in a single event loop."""
        return openai.AsyncOpenAI(**self._options())

    def models(self) -> list[str]:
        """Return the names of the models that the endpoint lists.

        Raises:
            Fault: if there is no list.
        """
        try:
            with openai.OpenAI(**self._options()) as client:
                listed = json.loads(client.models.with_raw_response.list().http_response.text)
        except (openai.APIError, ValueError) as error:
            raise self._fault(error) from error
        return _names(listed)

    async def ask(
        self, client: openai.AsyncOpenAI, message: str, sampling: SamplingParams, on_piece: OnPiece | None
    ) -> Said:
        """Send a message and return the reply, streaming it to `on_piece` if that is given.

        The reply of an endpoint that does not stream is passed on as a whole.

        Raises:
            Fault: if the request fails or the response is invalid.
        """
        completion = await self._completion(client, message, sampling, on_piece is not None)
        if on_piece is None:
            return self._whole(completion)
        if isinstance(completion, openai.AsyncStream):
            async with completion:
                content_type = completion.response.headers.get("content-type", "of an unknown content type")
                if "json" not in content_type:
                    return await _streamed(self._chunks(completion), content_type, on_piece)
                completion = await self._read(completion.response)
        said = self._whole(completion)
        if said.text:
            on_piece(said.text)
        return said

    async def _completion(
        self, client: openai.AsyncOpenAI, message: str, sampling: SamplingParams, streamed: bool
    ) -> Any:
        """Send a message until no parameter is refused, and return the response."""
        messages = [{"role": "user", "content": message}]
        create: Any = client.chat.completions.create
        while True:
            parameters = self._parameters(sampling, streamed)
            extra = {name: parameters.pop(name) for name in UNLISTED if name in parameters}
            options = parameters | ({"extra_body": extra} if extra else {})
            try:
                return await create(model=self.model, messages=messages, **options)
            except openai.APIStatusError as error:
                name = refusal(error.status_code, error.body).parameter([*parameters, *extra])
                if name is None:
                    raise self._fault(error) from error
                self._leave_out(name)
            except (openai.APIError, ValueError) as error:
                raise self._fault(error) from error

    def _parameters(self, sampling: SamplingParams, streamed: bool) -> dict[str, Any]:
        """Return the parameters of a request, without those that are left out."""
        parameters = _sampling(sampling)
        if streamed and "stream" not in self.left_out:
            parameters |= STREAMED
        for name, other in RENAMED.items():
            if name in self.left_out:
                parameters[other] = parameters.pop(name)
        return {name: value for name, value in parameters.items() if name not in self.left_out}

    def _leave_out(self, name: str) -> None:
        """Remember that a parameter is refused, and say so if replies depend on it."""
        if name in CHANGING and name not in self.left_out:
            LOG.warning("endpoint %s, model %r: does not take %r, which is left out", self.url, self.model, name)
        self.left_out.add(name)

    async def _read(self, response: Any) -> Any:
        """Read the whole body of a response that is not a stream."""
        try:
            body = json.loads(await response.aread())
        except ValueError as error:
            raise self._fault(error) from error
        except Exception as error:  # of the HTTP library, which the client does not wrap here
            if "Timeout" in type(error).__name__:
                raise Fault(f"no response within {self.timeout:g} s", LATER, again=True) from error
            raise Fault(f"the connection failed ({self._detail(str(error))})", UNREACHED, again=True) from error
        return ChatCompletion.construct(**body) if isinstance(body, dict) else body

    def _options(self) -> dict[str, Any]:
        """Return the options of a client."""
        timeout = openai.Timeout(self.timeout, connect=self.connect)
        return {"base_url": self.url, "api_key": self._key or NO_KEY, "timeout": timeout, "max_retries": 0}

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
        said = refusal(error.status_code, error.body)
        what = f"{said.title} ({self._detail(said.message)})" if said.message else said.title
        return Fault(what, said.advice, said.again, _retry_after(error.response.headers), said.too_long)

    def _whole(self, completion: Any) -> Said:
        """Return the reply of a response that is not a stream."""
        choice = _choice(completion)
        if choice is None:
            said = getattr(completion, "error", None)
            if said:
                raise Fault(f"the endpoint reported an error ({self._detail(refusal(200, said).message)})", LATER)
            problem = "is not valid JSON" if isinstance(completion, str) else "has no choices"
            raise Fault(f"the response {problem}", CHECK_ADDRESS)
        content = getattr(getattr(choice, "message", None), "content", None)
        text = content if isinstance(content, str) else ""
        return Said(text, _finish(choice), _usage(completion), _id(completion))

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
    if sampling.top_k:
        parameters["top_k"] = sampling.top_k
    if sampling.repetition_penalty != 1:
        parameters["repetition_penalty"] = sampling.repetition_penalty
    return parameters


async def _streamed(stream: AsyncIterator[Any], content_type: str, on_piece: OnPiece) -> Said:
    """Assemble a reply from the chunks of a stream with this content type."""
    pieces: list[str] = []
    finish: Finish | None = None
    usage: Usage | None = None
    chunks = chunks_with_choice = 0
    name = ""
    async for chunk in stream:
        chunks += 1
        usage = _usage(chunk) or usage
        name = _id(chunk) or name
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
    return Said("".join(pieces), finish, usage, name)


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


def _id(response: Any) -> str:
    """Return the id of the completion that a response or a chunk is of; empty if it gives none."""
    name = getattr(response, "id", None)
    return name if isinstance(name, str) else ""


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


def _names(listed: Any) -> list[str]:
    """Return the names of the models in the list of an endpoint, which may have the form of another interface."""
    if isinstance(listed, Mapping):
        listed = listed.get("data") or listed.get("models")
    items = listed if isinstance(listed, list) else []
    names = [item.get("id") or item.get("name") if isinstance(item, Mapping) else item for item in items]
    return list(dict.fromkeys(name for name in names if isinstance(name, str) and name))
