"""A key/value cache with room to grow.

The cache of `transformers` copies all of itself for every token.  Over a long memory that takes longer than the forward
pass; here a layer has room for some tokens more, and is copied when that is used up or its rows have changed.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

LEAST_ROOM = 64  # positions
SHARE = 8  # ... or one in so many of what is there


class GrowingLayer(DynamicLayer):
    """`keys` and `values` [b, heads, t, size] are the beginnings of larger tensors."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self._large: tuple[Tensor, Tensor] | None = None
        self._filled: Tensor | None = None  # `keys` as of the last update: other ones were put there since

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Append the new positions; all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._large is None or self.keys is not self._filled or end > self._large[0].shape[-2]:
            self._large = _copied(self.keys, key_states, start, end), _copied(self.values, value_states, start, end)
        for large, new in zip(self._large, (key_states, value_states), strict=True):
            large[..., start:end, :] = new
        self.keys, self.values = (large[..., :end, :] for large in self._large)
        self._filled = self.keys
        return self.keys, self.values


def _copied(old: Tensor | None, new: Tensor, start: int, end: int) -> Tensor:
    """A tensor with room beyond `end` that begins with what is there."""
    batch, heads, _, size = new.shape
    large = new.new_empty(batch, heads, end + max(LEAST_ROOM, end // SHARE), size)
    if old is not None and start:
        large[..., :start, :] = old
    return large


def growing_cache() -> Cache:
    """An empty cache for a model of any number of layers."""
    return Cache(layer_class_to_replicate=GrowingLayer)
