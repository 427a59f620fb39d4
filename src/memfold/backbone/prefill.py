"""Reads prompts: equal ones once, and what a whole batch begins with, such as a memory, in one pass of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from memfold.backbone.cache import growing_cache
from memfold.backbone.model import Backbone
from memfold.backbone.rows import pad, prefix_layers, prefix_mask
from memfold.core.system import SLOT, Rendered

SHARED_POSITIONS = 32  # a common beginning shorter than this costs less than a pass of its own


@torch.no_grad()
def last_states(backbone: Backbone, rendered: Sequence[Rendered]) -> Tensor:
    """The hidden state [b, d] at the last position of each rendered call; equal calls are run once."""
    first = _first_equal(rendered)
    distinct = list(dict.fromkeys(first))
    batch = pad([rendered[number] for number in distinct], backbone.device)
    embeddings = backbone.embed_rows(batch.tokens, batch.slots)
    mask = batch.mask() if len(distinct) > 1 or any(prefix is not None for prefix in batch.prefixes) else None
    hidden = backbone.hidden(embeddings, batch.positions, mask, batch.prefixes)[:, -1]
    return hidden[torch.tensor([distinct.index(number) for number in first], device=backbone.device)]


@torch.no_grad()
def prefill(backbone: Backbone, rendered: Sequence[Rendered]) -> tuple[Cache, Tensor, Tensor]:
    """Run all prompts, equal ones once; the cache, the mask over it [b, p + t], the last position's logits [b, v]."""
    first = _first_equal(rendered)
    place = {number: index for index, number in enumerate(dict.fromkeys(first))}
    cache, mask, logits = _run_prompts(backbone, [rendered[number] for number in place])
    if len(place) < len(rendered):
        chosen = torch.tensor([place[number] for number in first], device=backbone.device)
        cache.batch_select_indices(chosen)
        mask, logits = mask[chosen], logits[chosen]
    return cache, mask, logits


def _first_equal(rendered: Sequence[Rendered]) -> list[int]:
    """For each row the first one that equals it, as the samples of one question do."""
    known: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    first = []
    for number, row in enumerate(rendered):
        others = known.setdefault((tuple(row.tokens), tuple(row.positions)), [])
        equal = next((other for other in others if _same_memory(rendered[other], row)), number)
        if equal == number:
            others.append(number)
        first.append(equal)
    return first


def _same_memory(row: Rendered, other: Rendered) -> bool:
    return row.prefix is other.prefix and _same_slots(row, other)


def _same_slots(row: Rendered, other: Rendered, count: int | None = None) -> bool:
    """Whether the first `count` slots (all, if None) are equal."""
    if row.slots is None or other.slots is None:
        return row.slots is other.slots
    return torch.equal(row.slots[:count], other.slots[:count])


def _run_prompts(backbone: Backbone, rendered: Sequence[Rendered]) -> tuple[Cache, Tensor, Tensor]:
    """Run different prompts in one batch; the beginning that all have in common, such as a memory, once."""
    shared = _shared_beginning(rendered)
    cache = growing_cache()
    if shared:
        beginning = pad([_cut(rendered[0], 0, shared)], backbone.device)
        embeddings = backbone.embed_rows(beginning.tokens, beginning.slots)
        backbone.model.base_model(
            inputs_embeds=embeddings, position_ids=beginning.positions, past_key_values=cache, use_cache=True
        )
        cache.batch_repeat_interleave(len(rendered))
        before = torch.ones(len(rendered), shared, dtype=torch.long, device=backbone.device)
        rendered = [_cut(row, shared, len(row.tokens)) for row in rendered]
    else:
        prefixes = [row.prefix for row in rendered]
        before = prefix_mask(prefixes, backbone.device).long()
        for layer, (keys, values) in enumerate(prefix_layers(prefixes)):
            cache.update(keys, values, layer)
    batch = pad(rendered, backbone.device)
    mask = torch.cat([before, batch.valid.long()], 1)
    embeddings = backbone.embed_rows(batch.tokens, batch.slots)
    return cache, mask, backbone.next_logits(embeddings, batch.positions, cache, mask)


def _shared_beginning(rendered: Sequence[Rendered]) -> int:
    """How many positions all rows begin with alike, if it is worth a pass of its own; at least one stays behind."""
    first = rendered[0]
    if len(rendered) == 1 or any(row.prefix is not None for row in rendered):
        return 0
    shared = min(len(row.tokens) for row in rendered) - 1
    for row in rendered[1:]:
        columns = zip(first.tokens[:shared], first.positions, row.tokens, row.positions, strict=False)
        alike = takewhile(lambda column: column[0] == column[2] and column[1] == column[3], columns)
        shared = sum(1 for _ in alike)
        count = first.tokens[:shared].count(SLOT)
        if count and not _same_slots(first, row, count):
            shared = first.tokens.index(SLOT)
    return shared if shared >= SHARED_POSITIONS else 0


def _cut(row: Rendered, start: int, end: int) -> Rendered:
    """Positions `start` to `end` of a row, with the slots that stand there."""
    before, count = row.tokens[:start].count(SLOT), row.tokens[start:end].count(SLOT)
    slots = row.slots[before : before + count] if row.slots is not None and count else None
    return replace(row, tokens=row.tokens[start:end], positions=row.positions[start:end], slots=slots)
