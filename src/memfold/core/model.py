"""What memory systems and the rest of the package ask of a model, wherever it runs.

A model with weights in this process is a `memfold.backbone.model.Backbone`; one behind an address
(`memfold.endpoint.model`) reads text only.  Systems whose memory is text work with either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from memfold.core.prompt import ChatTemplate

if TYPE_CHECKING:
    from memfold.backbone.model import Backbone


class Model(Protocol):
    """A tokenizer with the facts about its model.

    `trained` maps a system's name to what the model folder says of it; `provenance` tells where the weights come from.
    """

    name: str
    chat_template: ChatTemplate
    trained: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def has_weights(self) -> bool:
        """Whether the weights are in this process: only then can it read slots and score replies."""
        ...

    def weights(self) -> Backbone:
        """The backbone itself.

        Raises:
            ConfigError: for a model behind an address.
        """
        ...

    @property
    def precision(self) -> str:
        """The name of the weights' dtype."""
        ...

    @property
    def identity(self) -> str:
        """What tells this model from every other."""
        ...

    @property
    def hidden_size(self) -> int:
        """Of embeddings; 0 where it is not known."""
        ...

    @property
    def window(self) -> int:
        """The most token positions that a reader of plain text may use."""
        ...

    @property
    def kv_bytes_per_token(self) -> int:
        """What a full key/value cache takes for one token in 16-bit numbers; 0 where it is not known."""
        ...

    @property
    def end_token(self) -> int:
        """The token that begins a sequence of text and ends a reply."""
        ...

    @property
    def readable(self) -> tuple[str, ...]:
        """Fingerprints of the encoders whose memories it reads; what it folds itself has the first."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids without special tokens added."""
        ...

    def tokenize(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids and their offsets in characters."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Text without special tokens."""
        ...
