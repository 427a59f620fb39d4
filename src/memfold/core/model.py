"""The interface of a model, whether its weights are local or behind an endpoint.

A model with weights in this process is a `memfold.backbone.model.Backbone`.  A model behind an endpoint
(`memfold.endpoint.model.EndpointModel`) reads text only.  Systems whose memory is text work with both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from memfold.core.prompt import ChatTemplate
from memfold.core.types import Part

if TYPE_CHECKING:
    from memfold.backbone.model import Backbone


class ModelRecord(Protocol):
    """What is known of a model without its weights.

    `trained` maps the name of a system to its record in the model folder.
    """

    name: str
    trained: dict[str, Any]

    @property
    def has_weights(self) -> bool:
        """Whether the weights are in this process, as reading slots and scoring replies requires."""
        ...

    @property
    def trained_here(self) -> bool:
        """Whether memfold trained the model for a system, to reply in a style of `memfold.core.prompt`; other models
        answer in their own words."""
        ...

    @property
    def window(self) -> int:
        """Context window: the maximum number of token positions; `sys.maxsize` if there is none, or it is unknown."""
        ...

    @property
    def answering(self) -> dict[str, Any]:
        """Reading settings that suit the model, which replace the defaults of every system."""
        ...

    @property
    def readable(self) -> tuple[str, ...]:
        """Fingerprints of the encoders whose slots the model reads; memories of slots that it folds carry the first."""
        ...


class Model(ModelRecord, Protocol):
    """A tokenizer together with the properties of its model; `provenance` describes the origin of the weights."""

    chat_template: ChatTemplate
    provenance: dict[str, Any]

    def weights(self) -> Backbone:
        """The backbone that holds the weights.

        Raises:
            ConfigError: for a model behind an endpoint.
        """
        ...

    @property
    def precision(self) -> str:
        """Name of the data type of the weights, such as `bfloat16`."""
        ...

    @property
    def identity(self) -> str:
        """A string that identifies the model: a fingerprint of its weights, or the address of its endpoint."""
        ...

    @property
    def hidden_size(self) -> int:
        """Size of the token embeddings; 0 if unknown."""
        ...

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that the key/value cache takes for one token in 16-bit precision; 0 if unknown."""
        ...

    @property
    def end_token(self) -> int:
        """Id of the token that ends a reply, and that begins every sequence of a model trained here."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a plain text; no special tokens are added, and none in the text counts."""
        ...

    def tokenize(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the token ids of a plain text and the character offsets (start, end) of each token."""
        ...

    def prompt(self, parts: Sequence[Part], chat_template: ChatTemplate) -> list[list[int]]:
        """Return the token ids of each part of a prompt; those of a block are empty."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens."""
        ...
