"""A key/value cache with spare capacity.

The cache of `transformers` copies all of its keys and values for every token.  With a long memory, this takes longer
than the forward pass.  Here, a layer is copied only if its spare capacity is used up or the rows of the batch have
changed.  Layers with a sliding window keep all positions, since their rows are padded; the masks hide what is outside
of the window.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

LEAST_ROOM = 64  # minimum spare capacity, in positions
SHARE = 8  # the spare capacity is at least 1/8 of the length


class GrowingLayer(DynamicLayer):
    """A cache layer whose `keys` and `values` [b, heads, t, size] are views of larger tensors."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self._storage: tuple[Tensor, Tensor] | None = None
        self._filled: Tensor | None = None  # `keys` after the last update; differs if the rows have changed since

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Append the keys and values of new positions, and return those of all positions."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._storage is None or self.keys is not self._filled or end > self._storage[0].shape[-2]:
            self._storage = _grown(self.keys, key_states, start, end), _grown(self.values, value_states, start, end)
        for buffer, new in zip(self._storage, (key_states, value_states), strict=True):
            buffer[..., start:end, :] = new
        self.keys, self.values = (buffer[..., :end, :] for buffer in self._storage)
        self._filled = self.keys
        return self.keys, self.values


def _grown(old: Tensor | None, new: Tensor, start: int, end: int) -> Tensor:
    """Return a tensor with capacity beyond `end`; its first `start` positions are copied from `old`."""
    batch, heads, _, size = new.shape
    buffer = new.new_empty(batch, heads, end + max(LEAST_ROOM, end // SHARE), size)
    if old is not None and start:
        buffer[..., :start, :] = old
    return buffer


def growing_cache(config: PreTrainedConfig) -> Cache:
    """Create an empty cache for a model; layers that do not hold keys and values stay those of `transformers`."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if holds_positions(layer) else layer for layer in cache.layers]
    return cache


def select_rows(cache: Cache, rows: Tensor) -> None:
    """Keep some rows of a batch, in the given order; a row can be repeated.  States of layers are kept alike."""
    cache.reorder_cache(rows)  # type: ignore[arg-type]  # a tensor of the type that it names does not exist


def holds_positions(layer: Any) -> bool:
    """Return whether a cache layer holds keys and values of every position, and nothing else."""
    return type(layer) in (DynamicLayer, DynamicSlidingWindowLayer)
