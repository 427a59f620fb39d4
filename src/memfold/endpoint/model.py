"""A model behind an endpoint, without local weights or tokenizer.

Systems fold, count tokens and render calls with it as with any model.  Since the tokenizer is unknown, a regular
expression splits text into tokens of about the usual length, so all token counts are estimates.  The id of a token
encodes its text, so a rendered call can be decoded into the message to send.  Slots and scores need weights and are
refused.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from memfold.core.errors import ConfigError
from memfold.core.prompt import ChatTemplate
from memfold.core.types import Part, Text

if TYPE_CHECKING:
    from memfold.backbone.model import Backbone

MAX_TOKENS = 2048  # of a reply
MOST_LISTED = 20  # names of models in an error
FORM = "http://HOST:PORT/v1#NAME"
# up to six ASCII or two other characters, with an optional space before them; or whitespace
_TOKEN = re.compile(r"\s?[!-~]{1,6}|\s?[^\x00-\x7f\s]{1,2}|\s{1,8}|.", re.DOTALL)
_MARK = b"\1"  # precedes the bytes of every token, as an integer would lose leading zero bytes


class EndpointModel:
    """The model `name` of the endpoint at `url`; see the module docstring.

    `left_out` holds the request parameters that the endpoint has refused for this model.
    """

    def __init__(self, url: str, name: str) -> None:
        self.url, self.name = url, name
        self.left_out: set[str] = set()
        self.chat_template: ChatTemplate = "message"
        self.trained: dict[str, Any] = {}
        self.provenance: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"EndpointModel({self.url!r}, {self.name!r})"

    @property
    def trained_here(self) -> bool:
        """Always false: unknown."""
        return False

    @property
    def has_weights(self) -> bool:
        """Always false: the weights are behind the endpoint."""
        return False

    def weights(self) -> Backbone:
        """Refuse access to the weights.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"model {self.name!r} is an endpoint, but its weights are needed here; use a --model that is a folder or "
            "a Hugging Face id"
        )

    @property
    def precision(self) -> str:
        """A placeholder: the endpoint does not report the data type of its weights."""
        return "unknown precision"

    @property
    def identity(self) -> str:
        """Address of the endpoint and name of the model, as `url#name`."""
        return f"{self.url}#{self.name}"

    @property
    def hidden_size(self) -> int:
        """Always 0: unknown."""
        return 0

    @property
    def window(self) -> int:
        """Unlimited here: the endpoint itself rejects messages that are too long."""
        return sys.maxsize

    @property
    def kv_bytes_per_token(self) -> int:
        """Always 0: unknown."""
        return 0

    @property
    def end_token(self) -> int:
        """Id of an empty token: the endpoint adds its own special tokens."""
        return _token_id("")

    @property
    def answering(self) -> dict[str, Any]:
        """Reading settings for a model that may think before it replies; what it thinks counts as part of a reply."""
        return {"chat_template": self.chat_template, "style": "bare", "max_tokens": MAX_TOKENS}

    def encode(self, text: str) -> list[int]:
        """Split text into tokens and return their ids."""
        return [_token_id(token) for token in _TOKEN.findall(text)]

    def tokenize(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the token ids of a text and the character offsets (start, end) of each token."""
        matches = list(_TOKEN.finditer(text))
        return [_token_id(match[0]) for match in matches], [match.span() for match in matches]

    def prompt(self, parts: Sequence[Part], chat_template: ChatTemplate) -> list[list[int]]:
        """Return the token ids of each part of a message; the endpoint applies its own chat template."""
        return [self.encode(part.text) if isinstance(part, Text) else [] for part in parts]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the exact text of token ids."""
        return b"".join(token.to_bytes((token.bit_length() + 7) // 8, "big")[1:] for token in tokens).decode()

    @property
    def readable(self) -> tuple[str, ...]:
        """Always empty: an endpoint reads no slots."""
        return ()


def is_address(model: str) -> bool:
    """Return whether the name of a model is the address of an endpoint."""
    return model.lower().startswith(("http://", "https://"))


def open_endpoint(model: str) -> EndpointModel:
    """Create the model of an address `http://host:port/v1#name`, without sending a request.

    If the address has no name, the endpoint is asked for its models, and must have one only.

    Raises:
        ConfigError: for an address of another form, or without a name if that leaves open which model is meant.
    """
    try:
        parts = urlsplit(model)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"model {model!r} is not a valid address ({error}); write {FORM}") from None
    if parts.username is not None or parts.password is not None:  # the address is not shown, as it may contain a key
        raise ConfigError(f"an address with a user name or password is not possible; write {FORM}, set OPENAI_API_KEY")
    if not host or port == 0 or parts.query or any(character.isspace() for character in model):
        raise ConfigError(f"model {model!r} is not the address of an endpoint; write {FORM}")
    url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    return EndpointModel(url, parts.fragment or _only_model(url))


def _only_model(url: str) -> str:
    """Return the name of the only model of an endpoint."""
    unnamed = f"model {url!r} does not name a model of the endpoint"
    try:
        from memfold.endpoint.chat import CONNECT_SECONDS, Chat, Fault
    except ModuleNotFoundError as error:
        if error.name != "openai":
            raise
        raise ConfigError(f"{unnamed}; write {url}#NAME") from None
    try:
        names = Chat(url, "", CONNECT_SECONDS).models()
    except Fault as fault:
        raise ConfigError(f"{unnamed}, and its list cannot be read: {fault.what}; write {url}#NAME") from None
    if len(names) != 1:
        listed = ", ".join(names[:MOST_LISTED]) + (
            f" and {len(names) - MOST_LISTED} more" if names[MOST_LISTED:] else ""
        )
        raise ConfigError(f"{unnamed}, which lists {listed or 'none'}; write {url}#NAME")
    return names[0]


def _token_id(token: str) -> int:
    return int.from_bytes(_MARK + token.encode(), "big")
