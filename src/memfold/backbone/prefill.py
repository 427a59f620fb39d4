"""Prefills prompts: equal ones once, and a beginning that all share, such as a memory, in a forward pass of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from memfold.backbone.cache import growing_cache, select_rows
from memfold.backbone.model import Backbone
from memfold.backbone.rows import Row, pack, pad, prefix_mask
from memfold.core.system import SLOT, Prefix, Rendered

SHARED_POSITIONS = 32  # a shorter beginning is not worth a forward pass of its own


@torch.no_grad()
def last_states(backbone: Backbone, rendered: Sequence[Rendered]) -> Tensor:
    """Return the hidden state [b, d] at the last position of each rendered call; equal calls are computed once."""
    first = _first_equal(rendered)
    distinct = list(dict.fromkeys(first))
    batch = pack([[Row(rendered[number])] for number in distinct], backbone.device)
    hidden = backbone.read(batch)[batch.ends[:, 0], batch.ends[:, 1]]
    return hidden[torch.tensor([distinct.index(number) for number in first], device=backbone.device)]


@torch.no_grad()
def prefill(backbone: Backbone, rendered: Sequence[Rendered]) -> tuple[Cache, Tensor, Tensor]:
    """Run all prompts, and return the cache, its mask [b, p + t], and the logits [b, v] of the last position."""
    first = _first_equal(rendered)
    place = {number: index for index, number in enumerate(dict.fromkeys(first))}
    cache, mask, logits = _run_prompts(backbone, [rendered[number] for number in place])
    if len(place) < len(rendered):
        indices = torch.tensor([place[number] for number in first], device=backbone.device)
        select_rows(cache, indices)
        mask, logits = mask[indices], logits[indices]
    return cache, mask, logits


def _first_equal(rendered: Sequence[Rendered]) -> list[int]:
    """Return, for each row, the index of the first row equal to it; the samples of one question are equal rows."""
    groups: dict[tuple[tuple[int, ...], tuple[int, ...], Prefix | None], list[int]] = {}
    first = []
    for number, row in enumerate(rendered):
        candidates = groups.setdefault((tuple(row.tokens), tuple(row.positions), row.prefix), [])
        equal = next((index for index in candidates if _same_slots(rendered[index], row)), number)
        if equal == number:
            candidates.append(number)
        first.append(equal)
    return first


def _same_slots(row: Rendered, other: Rendered, count: int | None = None) -> bool:
    """Return whether the first `count` slots (None: all) are equal."""
    if row.slots is None or other.slots is None:
        return row.slots is other.slots
    return torch.equal(row.slots[:count], other.slots[:count])


def _run_prompts(backbone: Backbone, rendered: Sequence[Rendered]) -> tuple[Cache, Tensor, Tensor]:
    """Run distinct prompts in one batch; a beginning that all share, such as a memory, is run once."""
    shared = _shared_beginning(rendered) if backbone.fit.rows == "packed" else 0
    cache = growing_cache(backbone.model.config)
    if shared:
        beginning = pad([_cut(rendered[0], 0, shared)], backbone.device)
        inputs = backbone.inputs(beginning.tokens, beginning.slots)
        backbone.forward(inputs, beginning.positions, cache=cache)
        select_rows(cache, torch.zeros(len(rendered), dtype=torch.long, device=backbone.device))
        before = torch.ones(len(rendered), shared, dtype=torch.long, device=backbone.device)
        rendered = [_cut(row, shared, len(row.tokens)) for row in rendered]
    else:
        prefixes = [row.prefix for row in rendered]
        before = prefix_mask(prefixes, backbone.device).long()
        for layer, (keys, values) in enumerate(backbone.prefix_layers(prefixes)):
            cache.update(keys, values, layer)
    batch = pad(rendered, backbone.device)
    mask = torch.cat([before, batch.valid.long()], 1)
    inputs = backbone.inputs(batch.tokens, batch.slots)
    return cache, mask, backbone.next_logits(inputs, batch.positions, cache, mask)


def _shared_beginning(rendered: Sequence[Rendered]) -> int:
    """Return the length of the beginning that all rows share (0 if too short), shorter than any row."""
    first = rendered[0]
    if len(rendered) == 1 or any(row.prefix is not None for row in rendered):
        return 0
    shared = min(len(row.tokens) for row in rendered) - 1
    for row in rendered[1:]:
        columns = zip(first.tokens[:shared], first.positions, row.tokens, row.positions, strict=False)
        equal = takewhile(lambda column: column[0] == column[2] and column[1] == column[3], columns)
        shared = sum(1 for _ in equal)
        count = first.tokens[:shared].count(SLOT)
        if count and not _same_slots(first, row, count):
            shared = first.tokens.index(SLOT)
    return shared if shared >= SHARED_POSITIONS else 0


def _cut(row: Rendered, start: int, end: int) -> Rendered:
    """Return positions `start` to `end` of a row, with the slots at these positions."""
    slots = row.slots_between(start, end)
    return replace(row, tokens=row.tokens[start:end], positions=row.positions[start:end], slots=slots)
