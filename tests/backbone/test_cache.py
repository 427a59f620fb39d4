"""The cache with room to grow holds what the cache of transformers holds."""

from __future__ import annotations

import torch
from transformers import DynamicCache, LlamaConfig

from memfold.backbone.cache import LEAST_ROOM, growing_cache

CONFIG = LlamaConfig(num_hidden_layers=2)


def test_it_holds_the_same_whatever_is_done_to_it() -> None:
    caches = (growing_cache(CONFIG), DynamicCache())
    draw = torch.Generator().manual_seed(0)

    def add(rows: int, count: int) -> None:
        for layer in range(2):
            keys, values = (torch.randn(rows, 3, count, 4, generator=draw) for _ in range(2))
            held = [cache.update(keys, values, layer) for cache in caches]
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(*held, strict=True))
        assert caches[0].get_seq_length() == caches[1].get_seq_length()

    add(1, 50)
    for cache in caches:
        cache.batch_repeat_interleave(4)
    for _ in range(LEAST_ROOM + 3):  # past the room
        add(4, 1)
    for cache in caches:
        cache.batch_select_indices(torch.tensor([2, 0]))
    add(2, 1)
    add(2, 200)


def test_a_token_is_written_where_there_is_room() -> None:
    cache = growing_cache(CONFIG)
    before = cache.update(torch.zeros(2, 1, 30, 4), torch.zeros(2, 1, 30, 4), 0)[0].data_ptr()
    for _ in range(LEAST_ROOM):
        keys, _ = cache.update(torch.ones(2, 1, 1, 4), torch.ones(2, 1, 1, 4), 0)
    assert keys.data_ptr() == before
    keys, _ = cache.update(torch.ones(2, 1, 1, 4), torch.ones(2, 1, 1, 4), 0)
    assert keys.data_ptr() != before
    assert float(keys.sum()) == 2 * 4 * (LEAST_ROOM + 1)
