"""A backbone: a causal LM of `transformers`, its tokenizer, and the heads and adapters that memory systems add.

Loading and saving are in `memfold.backbone.folder`.
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
    """A model with its tokenizer, heads and adapters.

    `trained` maps the name of a system to its record in the model folder.  `base_adapter` is the LoRA adapter that is
    part of the model, until it is merged.  `roles` are the named adapters, of which a call activates at most one.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    chat_template: ChatTemplate = "flat"
    heads: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    trained: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    familiar_loss: float | None = None  # nats per token; a text with a higher loss is unfamiliar
    stored_fingerprint: str | None = None
    base_adapter: Adapter | None = None
    roles: dict[str, Adapter] = field(default_factory=dict)
    encoder: Backbone | None = None  # separate model that makes the slots
    reads: tuple[str, ...] = ()  # fingerprints of the encoders whose memories it was trained to read; empty: itself
    folder: Path | None = None  # model folder that holds exactly these weights
    body: Any = None  # computes hidden states; training replaces it with a compiled one
    active_role: str | None = None

    def __post_init__(self) -> None:
        self.body = self.body or self.model.base_model
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
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.model.device

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
        return int(self.model.config.get_text_config().hidden_size)

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
        """Fingerprints of the encoders whose memories the model reads; memories that it folds carry the first one."""
        return self.reads or (self.fingerprint(),)

    @property
    def window(self) -> int:
        """Context window: the maximum number of token positions for plain text."""
        return int(self.model.config.get_text_config().max_position_embeddings)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that the key/value cache takes for one token in 16-bit precision."""
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * 2 * config.num_hidden_layers * heads * size)

    @property
    def end_token(self) -> int:
        """Id of the token that begins every sequence of text and ends a reply."""
        return int(self.tokenizer.eos_token_id)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text; no special tokens are added."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def tokenize(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the token ids of a text and the character offsets (start, end) of each token."""
        output = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(output["input_ids"]), [tuple(pair) for pair in output["offset_mapping"]]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def token_id(self, token: str) -> int:
        """Return the id of a special token.

        Raises:
            CheckpointError: if the tokenizer does not have the token.
        """
        index = self.tokenizer.convert_tokens_to_ids(token)
        if not isinstance(index, int) or index == self.tokenizer.unk_token_id:
            raise CheckpointError(f"model {self.name!r} has no token {token!r}; train it for this system first")
        return index

    def embed(self, tokens: Sequence[int]) -> Tensor:
        """Return the input embeddings [t, d] of token ids."""
        ids = torch.tensor(list(tokens), dtype=torch.long, device=self.device)
        return self.model.get_input_embeddings()(ids)  # type: ignore[no-any-return]

    def embed_rows(self, tokens: Tensor, slots: Sequence[Tensor]) -> Tensor:
        """Return the input embeddings [b, t, d] of token ids [b, t], with `slots` at the positions of `SLOT`."""
        embeddings: Tensor = self.model.get_input_embeddings()(tokens.clamp(min=0))
        if not slots:
            return embeddings
        return embeddings.masked_scatter((tokens == SLOT)[..., None], torch.cat(list(slots)).to(embeddings))

    def adapter(self, role: str | None) -> AbstractContextManager[None]:
        """Return a context manager that activates the adapter of a role (None: no adapter) inside a `with` block.

        Raises:
            CheckpointError: if the model has no adapter for the role.
        """
        return adapters.active(self, role)

    def hidden(
        self,
        embeddings: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        prefixes: Sequence[Prefix | None] = (),
    ) -> Tensor:
        """Return the final hidden states [b, t, d].

        `mask` [b, 1, t, p + t] is True where attention is allowed; rows attend to their `prefixes`, padded to length p.
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
        """Return the output of the model body, with `hidden_states` if `all_layers`; other arguments as in `hidden`."""
        if mask is not None and self.model.config._attn_implementation == "eager":  # eager adds the mask to the scores
            dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else embeddings.dtype
            mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(torch.bfloat16).min)
        if mask is None and positions is not None and cache is None:
            cache = DynamicCache()  # without one, `transformers` takes a jump of positions for the start of a sequence
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

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits [..., v] of hidden states [..., d]."""
        output: Tensor = self.model.get_output_embeddings()(hidden)
        return output

    def next_logits(self, embeddings: Tensor, positions: Tensor, cache: Cache, mask: Tensor) -> Tensor:
        """Extend the cache and return the logits [b, v] of the last position; `mask` [b, p + t] includes the cache."""
        output = self.model.base_model(
            inputs_embeds=embeddings,
            position_ids=positions,
            attention_mask=None if bool(mask.all()) else mask,
            past_key_values=cache,
            use_cache=True,
        )
        return self.logits(output.last_hidden_state[:, -1]).float()

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
