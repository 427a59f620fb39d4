"""The interface of a model, whether its weights are local or behind an endpoint.

A model with weights in this process is a `memfold.backbone.model.Backbone`.  A model behind an endpoint
(`memfold.endpoint.model.EndpointModel`) reads text only.  Systems whose memory is text work with both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from memfold.core.prompt import ChatTemplate

if TYPE_CHECKING:
    from memfold.backbone.model import Backbone


class Model(Protocol):
    """A tokenizer together with the properties of its model.

    `trained` maps the name of a system to its record in the model folder; `provenance` describes the origin of the
    weights.
    """

    name: str
    chat_template: ChatTemplate
    trained: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def has_weights(self) -> bool:
        """Whether the weights are in this process, as reading slots and scoring replies requires."""
        ...

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
    def window(self) -> int:
        """Context window: the maximum number of token positions."""
        ...

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that the key/value cache takes for one token in 16-bit precision; 0 if unknown."""
        ...

    @property
    def end_token(self) -> int:
        """Id of the token that begins every sequence and ends a reply."""
        ...

    @property
    def readable(self) -> tuple[str, ...]:
        """Fingerprints of the encoders whose memories the model reads; memories that it folds carry the first one."""
        ...

    def encode(self, text: str) -> list[int]:
        """Tokenise text; no special tokens are added."""
        ...

    def tokenize(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the token ids of a text and the character offsets (start, end) of each token."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens."""
        ...
