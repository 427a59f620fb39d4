"""A backbone: a causal LM of `transformers`, its tokenizer, and the heads and adapters that memory systems add.

Loading and saving are in `memfold.backbone.folder`.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from memfold.backbone import adapters, role_files
from memfold.backbone.adapters import Adapter
from memfold.backbone.architectures import TESTED, UNKNOWN, Fit
from memfold.backbone.computing import Computing
from memfold.backbone.device import DTYPE_NAMES
from memfold.backbone.fingerprint import fingerprint
from memfold.backbone.merged_roles import Replaced
from memfold.backbone.own_forward import body_of
from memfold.backbone.tokenized import Tokenized
from memfold.core.errors import CheckpointError, ConfigError
from memfold.core.prompt import ChatTemplate

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPE_NAMES}


@dataclass
class Backbone(Tokenized, Computing):
    """A model with its tokenizer, heads and adapters.

    `trained` maps the name of a system to its record in the model folder; if it is `published`, others have trained it.
    `base_adapter` is the LoRA adapter that is
    part of the model, until it is merged.  `roles` are the named adapters, of which a call activates at most one.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    chat_template: ChatTemplate = "flat"
    heads: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    trained: dict[str, Any] = field(default_factory=dict)
    published: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)
    familiar_loss: float | None = None  # nats per character; a text with a higher loss is unfamiliar
    familiar_characters: float | None = None  # per token; slots of a text with fewer are unfamiliar
    stored_fingerprint: str | None = None
    base_adapter: Adapter | None = None
    roles: dict[str, Adapter] = field(default_factory=dict)
    stored_roles: tuple[Path, ...] = ()  # folders of adapters, each of which is read when it is first used
    merged_roles: dict[str, tuple[Replaced, ...]] = field(default_factory=dict)  # adapters without matrices
    encoder: Backbone | None = None  # separate model that makes the slots
    reads: tuple[str, ...] = ()  # fingerprints of the encoders whose memories it was trained to read; empty: itself
    folder: Path | None = None  # model folder that holds exactly these weights
    body: Any = None  # computes hidden states; training replaces it with a compiled one
    active_role: str | None = None
    fit: Fit = UNKNOWN

    def __post_init__(self) -> None:
        self.body = self.body or body_of(self.model)
        if self.fit is UNKNOWN:
            self.fit = TESTED.get(self.model.config.model_type, UNKNOWN)
        # the padding token is often the end token, which begins every sequence: its embedding must learn
        embedding: Any = self.model.get_input_embeddings()
        embedding.padding_idx = None

    @property
    def has_weights(self) -> bool:
        """True: the weights are in this process."""
        return True

    def weights(self) -> Backbone:
        """Return the backbone itself."""
        return self

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights."""
        return self.model.dtype

    @property
    def precision(self) -> str:
        """Name of the data type of the weights, such as `bfloat16`."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def identity(self) -> str:
        """The fingerprint, which identifies the model."""
        return self.fingerprint()

    @property
    def hidden_size(self) -> int:
        """Size of embeddings, hidden states and slots."""
        embedding: Any = self.model.get_input_embeddings()
        return int(embedding.weight.shape[1])

    @property
    def compressor(self) -> Backbone:
        """The model that makes the slots: the separate encoder if there is one, otherwise the backbone itself.

        Raises:
            CheckpointError: if the model reads memories of an encoder that is missing.
        """
        if self.encoder is None and self.reads:
            raise CheckpointError(
                f"model {self.name!r} reads memories of the encoder {self.reads[0][:12]}, which is not in its folder; "
                "fold with that encoder, or copy it to the subfolder 'encoder'"
            )
        return self.encoder or self

    @property
    def readable(self) -> tuple[str, ...]:
        """Fingerprints of the encoders whose slots the model reads; memories of slots that it folds carry the first."""
        return self.reads or (self.fingerprint(),)

    @property
    def end_tokens(self) -> frozenset[int]:
        """Ids of all tokens that end a reply; models that were trained for conversations have several."""
        config: Any = getattr(self.model, "generation_config", None)
        ends = getattr(config, "eos_token_id", None)
        return frozenset({self.end_token, self.message_end, *(ends if isinstance(ends, list) else [ends])} - {None})

    def set_attention(self, implementation: str) -> None:
        """Choose the attention implementation of `transformers`.

        Raises:
            ConfigError: for one that the model does not have.
        """
        with suppress(ValueError, ImportError):
            self.model.set_attn_implementation(implementation)
        own = self.model.config._attn_implementation
        if own != implementation:
            raise ConfigError(
                f"attention = {implementation!r} is not possible: {type(self.model).__name__} does not have it; use "
                f"attention = {own!r}"
            )

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that the key/value cache takes for one token in 16-bit precision."""
        return 2 * 2 * math.prod(self.key_shape)

    @property
    def key_shape(self) -> tuple[int, int, int]:
        """Layers, key/value heads and size of a head, according to the configuration; 0 without attention."""
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_attention_heads", None)
        if not heads:
            return 0, 0, 0
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        return int(config.num_hidden_layers), int(getattr(config, "num_key_value_heads", None) or heads), int(size)

    def adapter(self, role: str | None) -> AbstractContextManager[None]:
        """Return a context manager that activates the adapter of a role (None: no adapter) inside a `with` block.

        Raises:
            CheckpointError: if the model has no adapter for the role.
        """
        role_files.ready(self, role)
        return adapters.active(self, role)

    def head_score(self, head: str, hidden: Tensor) -> Tensor:
        """Return the score [...] that a head, named `system` or `system.part`, gives hidden states [..., d].

        Raises:
            CheckpointError: if the model does not have the head.
        """
        try:
            module = self.heads.get_submodule(head)
        except AttributeError:
            raise CheckpointError(f"model {self.name!r} has no head {head!r}; train it for this system first") from None
        score: Tensor = module(hidden.to(next(module.parameters()).dtype))
        return score[..., 0].float()

    def fingerprint(self) -> str:
        """Return the SHA-256 of configuration, tokenizer and weights, except those of a separate encoder."""
        if self.stored_fingerprint is None:
            self.stored_fingerprint = fingerprint(self.model, self.tokenizer, self.parameters())
        return self.stored_fingerprint

    def set_encoder(self, encoder: Backbone) -> None:
        """Set a separate encoder, whose memories the model reads; its weights are frozen."""
        for _, parameter in encoder.parameters():
            parameter.requires_grad_(False)
        self.encoder, self.reads = encoder, (encoder.fingerprint(),)

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Return all named parameters, except those of a separate encoder; names of heads begin with `heads.`."""
        return [*self.model.named_parameters(), *((f"heads.{n}", p) for n, p in self.heads.named_parameters())]
