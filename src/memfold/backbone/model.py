"""A backbone: an unmodified causal LM of `transformers`, its tokenizer, and the heads that memory systems add to it.

Left out: how it is kept on disk (`memfold.backbone.folder`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache, DynamicCache

from memfold.backbone import adapters
from memfold.backbone.adapters import Adapter
from memfold.backbone.fingerprint import fingerprint
from memfold.backbone.rows import prefix_layers
from memfold.core.errors import CheckpointError
from memfold.core.prompt import ChatTemplate
from memfold.core.system import SLOT, Prefix

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class Backbone:
    """The model with everything that a system needs of it.

    `trained` maps a system's name to what the model folder says of it.  `base_adapter` are LoRA matrices that are part
    of the model, while they are not merged; `roles` are named adapters beside it, of which a call activates one.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    chat_template: ChatTemplate = "flat"
    heads: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    trained: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    familiar_loss: float | None = None  # nats per token above which a text is unlike the training text
    stored_fingerprint: str | None = None
    base_adapter: Adapter | None = None
    roles: dict[str, Adapter] = field(default_factory=dict)
    encoder: Backbone | None = None  # other weights that make the slots which this decoder reads
    reads: tuple[str, ...] = ()  # fingerprints of the encoders whose memories it was trained to read; empty: its own
    folder: Path | None = None  # where its weights lie as they are
    body: Any = None  # what runs hidden states; replaced by a compiled form in training
    active_role: str | None = None

    def __post_init__(self) -> None:
        self.body = self.body or self.model.base_model

    @property
    def has_weights(self) -> bool:
        """They are in this process."""
        return True

    def weights(self) -> Backbone:
        """Itself."""
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.model.dtype

    @property
    def precision(self) -> str:
        """The name of `dtype`."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def identity(self) -> str:
        """What tells this model from every other."""
        return self.fingerprint()

    @property
    def hidden_size(self) -> int:
        """Of embeddings, hidden states and slots."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def compressor(self) -> Backbone:
        """The weights that make slots: its encoder's where the decoder was trained alone, else its own.

        Raises:
            CheckpointError: when the encoder that it reads is not at hand.
        """
        if self.encoder is None and self.reads:
            raise CheckpointError(
                f"model {self.name!r} reads memories of the encoder {self.reads[0][:16]}, which is not in its folder; "
                "fold with that model, or put it there as the folder 'encoder'"
            )
        return self.encoder or self

    @property
    def readable(self) -> tuple[str, ...]:
        """Fingerprints of the encoders whose memories it reads; what it folds itself has the first."""
        return self.reads or (self.fingerprint(),)

    @property
    def window(self) -> int:
        """The most positions that a reader of plain text may use."""
        return int(self.model.config.get_text_config().max_position_embeddings)

    @property
    def kv_bytes_per_token(self) -> int:
        """What a full key/value cache takes for one token in 16-bit numbers."""
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * 2 * config.num_hidden_layers * heads * size)

    @property
    def end_token(self) -> int:
        """The token that begins a sequence of text and ends a reply."""
        return int(self.tokenizer.eos_token_id)

    def encode(self, text: str) -> list[int]:
        """Token ids without special tokens added."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def tokenize(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids and their offsets in characters."""
        output = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(output["input_ids"]), [tuple(pair) for pair in output["offset_mapping"]]

    def decode(self, tokens: Sequence[int]) -> str:
        """Text without special tokens."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def token_id(self, token: str) -> int:
        """The id of one special token.

        Raises:
            CheckpointError: when the tokenizer does not have it.
        """
        index = self.tokenizer.convert_tokens_to_ids(token)
        if not isinstance(index, int) or index == self.tokenizer.unk_token_id:
            raise CheckpointError(f"model {self.name!r} has no token {token!r}; train it for this system first")
        return index

    def embed(self, tokens: Sequence[int]) -> Tensor:
        """[t, d]"""
        ids = torch.tensor(list(tokens), dtype=torch.long, device=self.device)
        return self.model.get_input_embeddings()(ids)  # type: ignore[no-any-return]

    def embed_rows(self, tokens: Tensor, slots: Sequence[Tensor]) -> Tensor:
        """Embeddings [b, t, d] of rows [b, t]: the model's own for tokens, `slots` where `SLOT` stands."""
        embeddings: Tensor = self.model.get_input_embeddings()(tokens.clamp(min=0))
        if not slots:
            return embeddings
        return embeddings.masked_scatter((tokens == SLOT)[..., None], torch.cat(list(slots)).to(embeddings))

    def adapter(self, role: str | None) -> AbstractContextManager[None]:
        """Within it the adapter of that role is active (None: none of them); afterwards what was before.

        Raises:
            CheckpointError: for a role that the model has no adapter for.
        """
        return adapters.active(self, role)

    def hidden(
        self,
        embeddings: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        prefixes: Sequence[Prefix | None] = (),
    ) -> Tensor:
        """Final hidden states [b, t, d].

        `mask` is [b, 1, t, p + t] with True where a position may be read; `prefixes` are the keys and values, padded to
        p positions, that each row is read behind.
        """
        layers = prefix_layers(prefixes)
        output = self.forward(embeddings, positions, mask, DynamicCache(layers) if layers else None)
        return output.last_hidden_state  # type: ignore[no-any-return]

    def forward(
        self,
        embeddings: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Cache | None = None,
        all_layers: bool = False,
    ) -> Any:
        """What the model's body gives: `last_hidden_state`, with a cache `past_key_values` (the keys and values of
        every layer), with `all_layers` also `hidden_states`.  Arguments as for `hidden`."""
        if mask is not None and self.model.config._attn_implementation == "eager":  # it adds the mask to the scores
            dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else embeddings.dtype
            mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(torch.bfloat16).min)
        if mask is None and positions is not None and cache is None:
            cache = DynamicCache()  # without one, `transformers` takes a jump of positions for another sequence's start
        options: dict[str, Any] = {"output_hidden_states": True} if all_layers else {}
        if cache is not None:
            options["past_key_values"] = cache
        return self.body(
            inputs_embeds=embeddings,
            position_ids=positions,
            attention_mask=mask,
            use_cache=cache is not None,
            **options,
        )

    def head_score(self, head: str, hidden: Tensor) -> Tensor:
        """[...]: what the head of that name, `system` or `system.part`, makes of hidden states [..., d].

        Raises:
            CheckpointError: for a head that the model does not have.
        """
        try:
            module = self.heads.get_submodule(head)
        except AttributeError:
            raise CheckpointError(f"model {self.name!r} has no head {head!r}; train it for this system first") from None
        score: Tensor = module(hidden.to(next(module.parameters()).dtype))
        return score[..., 0].float()

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., vocabulary]"""
        output: Tensor = self.model.get_output_embeddings()(hidden)
        return output

    def next_logits(self, embeddings: Tensor, positions: Tensor, cache: Cache, mask: Tensor) -> Tensor:
        """The logits [b, v] of the last position, read behind what is in the cache; `mask` [b, p + t] is over both."""
        output = self.model.base_model(
            inputs_embeds=embeddings,
            position_ids=positions,
            attention_mask=None if bool(mask.all()) else mask,
            past_key_values=cache,
            use_cache=True,
        )
        return self.logits(output.last_hidden_state[:, -1]).float()

    def fingerprint(self) -> str:
        """SHA-256 over configuration, tokenizer and weights, those of a separate encoder left out."""
        if self.stored_fingerprint is None:
            self.stored_fingerprint = fingerprint(self.model, self.tokenizer, self.parameters())
        return self.stored_fingerprint

    def set_encoder(self, encoder: Backbone) -> None:
        """Read memories of other weights, which stay as they are."""
        for _, parameter in encoder.parameters():
            parameter.requires_grad_(False)
        self.encoder, self.reads = encoder, (encoder.fingerprint(),)

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        """All weights by name, those of heads under `heads.`; not those of a separate encoder."""
        return [*self.model.named_parameters(), *((f"heads.{n}", p) for n, p in self.heads.named_parameters())]
