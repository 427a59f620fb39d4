"""A model behind an address: no weights and no tokenizer here, so its tokens are cut by a rule.

Systems fold, count and render with it as with any model.  A token is a word or a piece of one, about as long as those
of common tokenizers; its number is its own text, so that a rendered call can be read back as the message to send.
Every count of tokens made with it is an estimate.  Left out: what needs weights (slots, scores), refused by name.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from memfold.core.errors import ConfigError
from memfold.core.prompt import ChatTemplate

if TYPE_CHECKING:
    from memfold.backbone.model import Backbone

FORM = "http://HOST:PORT/v1#NAME"
# up to six ASCII characters or two others, with one space before them; or a stretch of space
_TOKEN = re.compile(r"\s?[!-~]{1,6}|\s?[^\x00-\x7f\s]{1,2}|\s{1,8}|.", re.DOTALL)
_MARK = b"\1"  # before the bytes of every token: a number does not tell how many zeros it begins with


class EndpointModel:
    """See the module docstring.  `url` is where the endpoint is, `name` what it calls its model."""

    def __init__(self, url: str, name: str) -> None:
        self.url, self.name = url, name
        self.chat_template: ChatTemplate = "message"
        self.trained: dict[str, Any] = {}
        self.provenance: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"EndpointModel({self.url!r}, {self.name!r})"

    @property
    def has_weights(self) -> bool:
        """They are behind the address."""
        return False

    def weights(self) -> Backbone:
        """Raises:
        ConfigError: always.
        """
        raise ConfigError(
            f"model {self.name!r} is an endpoint, and its weights are needed here; give a --model that is a folder or "
            "a Hugging Face id"
        )

    @property
    def precision(self) -> str:
        """None that is known."""
        return "unknown precision"

    @property
    def identity(self) -> str:
        """Its address and name: what stands behind them is for the endpoint to say."""
        return f"{self.url}#{self.name}"

    @property
    def hidden_size(self) -> int:
        """None that is known."""
        return 0

    @property
    def window(self) -> int:
        """Unlimited: how long a message may be is for the endpoint to say."""
        return sys.maxsize

    @property
    def kv_bytes_per_token(self) -> int:
        """None that is known."""
        return 0

    @property
    def end_token(self) -> int:
        """A token without text: the endpoint begins and ends its sequences itself."""
        return _number("")

    def encode(self, text: str) -> list[int]:
        """The numbers of the tokens."""
        return [_number(token) for token in _TOKEN.findall(text)]

    def tokenize(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The numbers of the tokens and their offsets in characters."""
        found = list(_TOKEN.finditer(text))
        return [_number(match[0]) for match in found], [match.span() for match in found]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text that was encoded, character for character."""
        return b"".join(token.to_bytes((token.bit_length() + 7) // 8, "big")[1:] for token in tokens).decode()

    @property
    def readable(self) -> tuple[str, ...]:
        """Memories of text, whichever model behind an address they were made for."""
        return (hashlib.sha256(_TOKEN.pattern.encode()).hexdigest(),)  # of the rule by which text is cut


def is_address(model: str) -> bool:
    """Whether the name of a model is an address."""
    return model.lower().startswith(("http://", "https://"))


def open_endpoint(model: str) -> EndpointModel:
    """The model of `http://host:port/v1#name`; nothing is sent.

    Raises:
        ConfigError: for an address of another form.
    """
    try:
        parts = urlsplit(model)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"model {model!r} is no address ({error}); write {FORM}") from None
    if parts.username is not None or parts.password is not None:  # not shown again: it may hold a key
        raise ConfigError(f"an address with a name or password in it is not possible; write {FORM}, set OPENAI_API_KEY")
    if not host or port == 0 or parts.query or any(character.isspace() for character in model):
        raise ConfigError(f"model {model!r} is no address of an endpoint; write {FORM}")
    if not parts.fragment:
        raise ConfigError(f"model {model!r} does not say which model of the endpoint is meant; write {model}#NAME")
    return EndpointModel(f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}", parts.fragment)


def _number(token: str) -> int:
    return int.from_bytes(_MARK + token.encode(), "big")
