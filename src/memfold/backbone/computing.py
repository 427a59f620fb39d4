"""The computing side of a backbone: forward passes whose numbers are those of the model's own in `transformers`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from memfold.backbone.architectures import Fit
from memfold.backbone.masks import Visibility, padded
from memfold.backbone.own_forward import body_of, own_logits
from memfold.backbone.positions import PositionLimit, position_limit, table_change, window_of
from memfold.backbone.rows import RowBatch, prefix_layers
from memfold.core.errors import CallError, ConfigError
from memfold.core.system import SLOT, Prefix

OTHER_SYSTEM = "use a system whose memory is text, or another model"


class Computing:
    """A model with weights.

    `body` computes hidden states; training replaces it with a compiled one.  `fit` is what can be computed with the
    architecture of the model.
    """

    name: str
    model: PreTrainedModel
    body: Any
    fit: Fit

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.model.device

    @property
    def window(self) -> int:
        """Context window: the maximum number of token positions for plain text."""
        return window_of(self.model.config.get_text_config())

    def check_positions(self, count: int) -> None:
        """Check that a sequence of positions 0 to `count` - 1 is computed right.

        Raises:
            CallError: if not; the message gives the limit and its reason.
        """
        limit = self.position_limit
        if limit is not None and count > limit.count:
            raise CallError(
                "policy",
                f"a call reaches position {count - 1}, but model {self.name!r} has {limit.count} positions: "
                f"{limit.reason}; shorten the text or the reply",
            )

    @cached_property
    def position_limit(self) -> PositionLimit | None:
        """The limit of the positions of the model; None for a model that computes any position."""
        return position_limit(self.model, body_of(self.model))

    def is_long(self, length: int) -> bool:
        """Return whether a sequence of positions 0 to `length` - 1 has the rotary table of long sequences (LongRoPE).

        The rows of a forward pass must be alike, since all of them get the table of the longest one.
        """
        change = table_change(self.model.config.get_text_config())
        return change is not None and length > change

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

    def inputs(self, tokens: Tensor, slots: Sequence[Tensor]) -> Tensor:
        """Return the input of the model body for tokens [b, t]: their ids, or embeddings [b, t, d] if there are slots.

        Raises:
            ConfigError: if there are slots, which the architecture of the model cannot read.
        """
        if not slots:
            return tokens
        if not self.fit.slots:
            raise ConfigError(
                f"model {self.name!r} cannot read slots: {type(self.model).__name__} computes from token ids more than "
                f"their embeddings; {OTHER_SYSTEM}"
            )
        return self.embed_rows(tokens, slots)

    def prefix_layers(self, prefixes: Sequence[Prefix | None]) -> list[tuple[Tensor, Tensor]]:
        """Return the keys and values of each layer, as the function `prefix_layers`.

        Raises:
            ConfigError: if there are prefixes, which the architecture of the model cannot read.
        """
        layers = prefix_layers(prefixes)
        if layers and self.fit.rows != "packed":
            raise ConfigError(
                f"model {self.name!r} cannot read a memory of keys and values: {type(self.model).__name__} has layers "
                f"with a state, or counts positions in the batch; {OTHER_SYSTEM}"
            )
        return layers

    def hidden(
        self,
        inputs: Tensor,
        positions: Tensor | None = None,
        visibility: Visibility | None = None,
        prefixes: Sequence[Prefix | None] = (),
    ) -> Tensor:
        """Return the final hidden states [b, t, d] of token ids [b, t] or embeddings [b, t, d].

        Rows attend to their `prefixes`, padded to length p.  Without a `visibility`, every position attends to those
        before it, and rows have no padding on the left.
        """
        if visibility is not None and visibility.bidirectional and self.fit.rows != "packed":
            raise ConfigError(f"model {self.name!r} cannot read text in both directions; use a causal mask")
        layers = self.prefix_layers(prefixes)
        output = self.forward(inputs, positions, visibility, DynamicCache(layers) if layers else None)
        return output.last_hidden_state  # type: ignore[no-any-return]

    def forward(
        self,
        inputs: Tensor,
        positions: Tensor | None = None,
        visibility: Visibility | None = None,
        cache: Cache | None = None,
        **options: Any,
    ) -> Any:
        """Return the output of the model body; `options` are passed to it, the other arguments are as in `hidden`."""
        return self._run(self.body, inputs, positions, visibility, cache, **options)

    def _run(
        self,
        body: Any,
        inputs: Tensor,
        positions: Tensor | None,
        visibility: Visibility | None,
        cache: Cache | None,
        **options: Any,
    ) -> Any:
        if self.position_limit is not None:
            past = 0 if cache is None or positions is not None else cache.get_seq_length()
            self.check_positions(past + inputs.shape[1] if positions is None else int(positions.max()) + 1)
        mask = None if visibility is None else visibility.valid.long()
        if mask is None and cache is None and positions is not None:
            # without a mask, `transformers` takes a gap between positions for the border of another sequence
            mask = inputs.new_ones(inputs.shape[:2], dtype=torch.long)
        if positions is not None and "position_ids" in self._accepted:
            options["position_ids"] = positions
        if cache is not None:
            options["past_key_values" if "past_key_values" in self._accepted else "cache_params"] = cache
        options["input_ids" if inputs.ndim == 2 else "inputs_embeds"] = inputs
        with visibility.active() if visibility is not None else nullcontext():
            return body(attention_mask=mask, use_cache=cache is not None, **options)

    @cached_property
    def _accepted(self) -> frozenset[str]:
        """Names of the arguments of the model body."""
        return frozenset(inspect.signature(body_of(self.model).forward).parameters)

    def read(self, batch: RowBatch) -> Tensor:
        """Return the final hidden states [b, t, d] of a batch of rows, which have no padding on the left."""
        visibility = None if self.fit.rows == "alone" else batch.visibility()
        return self.hidden(self.inputs(batch.tokens, batch.slots), batch.positions, visibility, batch.prefixes)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits [..., v] of hidden states [..., d], as the class of the model computes them."""
        return own_logits(self.model, hidden)

    def next_logits(self, inputs: Tensor, positions: Tensor, cache: Cache, mask: Tensor) -> Tensor:
        """Extend the cache and return the logits [b, v] of the last position; `mask` [b, p + t] includes the cache."""
        visibility = None if bool(mask.all()) else padded(mask, inputs.shape[1])
        output = self._run(body_of(self.model), inputs, positions, visibility, cache)
        return self.logits(output.last_hidden_state[:, -1]).float()
