"""Batched decoding from rendered calls, on top of optional key/value prefixes of different lengths.

An own loop, because `generate()` of `transformers` silently goes wrong when a filled cache is followed by embeddings
alone.  Rows are padded on the left, with explicit mask and positions; what they begin with alike is read once; finished
rows leave the batch, some at a time.  Only the last position is turned into logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from memfold.backbone.cache import growing_cache
from memfold.backbone.model import Backbone
from memfold.core.system import SLOT, Inputs
from memfold.core.types import Finish, Limits, Reply

OnToken = Callable[[int, str], None]
Cancel = Callable[[int], bool]

LEAVING = 0.25  # of the rows
# A common beginning shorter than this costs less than a pass of its own.
SHARED_PLACES = 32


@dataclass
class _Place:
    """One row of the batch while it is being decoded."""

    number: int
    limits: Limits
    position: int
    generator: torch.Generator
    inputs: Inputs
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Finish | None = None
    shown: str = ""


@torch.no_grad()
def generate(backbone: Backbone, inputs: Sequence[Inputs], limits: Sequence[Limits], on_token: OnToken | None = None,
             cancel: Cancel | None = None) -> list[Reply]:  # fmt: skip
    """One reply for each rendered call; all in one batch."""
    places = _places(inputs, limits)
    cache, mask, logits = _prefill(backbone, inputs)
    active = list(places)
    while True:
        _extend(backbone, active, logits, on_token, cancel)
        if all(place.finish for place in active):
            return [_reply(backbone, place) for place in places]
        active, mask = _leave(active, cache, mask)
        logits = _step(backbone, active, cache, mask)


@torch.no_grad()
def decode_again(backbone: Backbone, inputs: Sequence[Inputs], replies: Sequence[Sequence[int]]) -> None:
    """Feed replies that are known, rows leaving as they end: what decoding costs where no token is chosen."""
    active = _places(inputs, [Limits() for _ in inputs])
    cache, mask, _ = _prefill(backbone, inputs)
    while True:
        for place in (one for one in active if one.finish is None):
            known = replies[place.number]
            place.tokens.append(known[len(place.tokens)])
            place.finish = "stop" if len(place.tokens) == len(known) else None
        if all(place.finish for place in active):
            return
        active, mask = _leave(active, cache, mask)
        _step(backbone, active, cache, mask)


def _places(inputs: Sequence[Inputs], limits: Sequence[Limits]) -> list[_Place]:
    return [
        _Place(number, limit, row.positions[-1] + 1, torch.Generator().manual_seed(limit.seed), row)
        for number, (row, limit) in enumerate(zip(inputs, limits, strict=True))
    ]


def _leave(active: list[_Place], cache: Cache, mask: Tensor) -> tuple[list[_Place], Tensor]:
    """The rows of the next step, and the mask with a place for its token.

    Taking rows out copies the cache, so finished ones stay until they are `LEAVING` of the rows.
    """
    kept = [index for index, place in enumerate(active) if place.finish is None]
    if len(active) - len(kept) >= LEAVING * len(active):
        chosen = torch.tensor(kept, device=mask.device)
        cache.batch_select_indices(chosen)
        mask, active = mask[chosen], [active[index] for index in kept]
    return active, torch.cat([mask, mask.new_ones(len(active), 1)], 1)


def _prefill(backbone: Backbone, inputs: Sequence[Inputs]) -> tuple[Cache, Tensor, Tensor]:
    """Run all prompts, equal ones once; the cache, the mask over it [b, p + t], the logits of the last place [b, v]."""
    first = _first_equal(inputs)
    own = {number: place for place, number in enumerate(dict.fromkeys(first))}
    cache, mask, logits = _run_prompts(backbone, [inputs[number] for number in own])
    if len(own) < len(inputs):
        chosen = torch.tensor([own[number] for number in first], device=backbone.device)
        cache.batch_select_indices(chosen)
        mask, logits = mask[chosen], logits[chosen]
    return cache, mask, logits


def _first_equal(inputs: Sequence[Inputs]) -> list[int]:
    """For each row the first one that equals it, as the samples of one question do; key/values are not compared."""
    known: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    first = []
    for number, row in enumerate(inputs):
        others = known.setdefault((tuple(row.tokens), tuple(row.positions)), [])
        found = next((other for other in others if _same_memory(inputs[other], row)), number)
        if found == number:
            others.append(number)
        first.append(found)
    return first


def _same_memory(one: Inputs, other: Inputs) -> bool:
    return one.key_values is None and other.key_values is None and _same_slots(one, other)


def _same_slots(one: Inputs, other: Inputs, count: int | None = None) -> bool:
    """Whether the first `count` slots (all, if None) are equal."""
    if one.slots is None or other.slots is None:
        return one.slots is other.slots
    return torch.equal(one.slots[:count], other.slots[:count])


def _run_prompts(backbone: Backbone, inputs: Sequence[Inputs]) -> tuple[Cache, Tensor, Tensor]:
    """Run different prompts in one batch; the beginning that all have in common, such as a memory, once."""
    shared = _shared_beginning(inputs)
    if shared:
        cache = growing_cache()
        beginning = [_cut(inputs[0], 0, shared)]
        tokens, positions, _ = _padded(backbone, beginning)
        embeddings = backbone.embed_rows(tokens, _slots(beginning))
        backbone.model.base_model(
            inputs_embeds=embeddings, position_ids=positions, past_key_values=cache, use_cache=True
        )
        cache.batch_repeat_interleave(len(inputs))
        prefix = torch.ones(len(inputs), shared, dtype=torch.long, device=backbone.device)
        inputs = [_cut(row, shared, len(row.tokens)) for row in inputs]
    else:
        cache, prefix = _prefix_cache(backbone, inputs)
    tokens, positions, mask = _padded(backbone, inputs)
    mask = torch.cat([prefix, mask], 1)
    logits = _logits(backbone, backbone.embed_rows(tokens, _slots(inputs)), positions, cache, mask)
    return cache, mask, logits


def _shared_beginning(inputs: Sequence[Inputs]) -> int:
    """How many places all rows begin with alike, if it is worth a pass of its own; at least one place stays behind."""
    first = inputs[0]
    if len(inputs) == 1 or any(row.key_values is not None for row in inputs):
        return 0
    shared = min(len(row.tokens) for row in inputs) - 1
    for row in inputs[1:]:
        places = zip(first.tokens[:shared], first.positions, row.tokens, row.positions, strict=False)
        alike = takewhile(lambda place: place[0] == place[2] and place[1] == place[3], places)
        shared = sum(1 for _ in alike)
        count = first.tokens[:shared].count(SLOT)
        if count and not _same_slots(first, row, count):
            shared = first.tokens.index(SLOT)
    return shared if shared >= SHARED_PLACES else 0


def _cut(row: Inputs, start: int, end: int) -> Inputs:
    """Places `start` to `end` of a row, with the slots that stand there."""
    before, own = row.tokens[:start].count(SLOT), row.tokens[start:end].count(SLOT)
    slots = row.slots[before : before + own] if row.slots is not None and own else None
    return replace(row, tokens=row.tokens[start:end], positions=row.positions[start:end], slots=slots)


def _slots(inputs: Sequence[Inputs]) -> list[Tensor]:
    return [row.slots for row in inputs if row.slots is not None]


def _padded(backbone: Backbone, inputs: Sequence[Inputs]) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, positions and mask [b, t] of rows padded on the left."""
    length = max(len(row.tokens) for row in inputs)
    tokens = torch.zeros(len(inputs), length, dtype=torch.long)
    positions = torch.zeros(len(inputs), length, dtype=torch.long)
    mask = torch.zeros(len(inputs), length, dtype=torch.long)
    for index, row in enumerate(inputs):
        start = length - len(row.tokens)
        tokens[index, start:] = torch.tensor(row.tokens)
        positions[index, start:] = torch.tensor(row.positions)
        mask[index, start:] = 1
    return tokens.to(backbone.device), positions.to(backbone.device), mask.to(backbone.device)


def _prefix_cache(backbone: Backbone, inputs: Sequence[Inputs]) -> tuple[Cache, Tensor]:
    """Key/value prefixes padded on the left into one cache, and their mask [b, p]."""
    length = max((row.key_values[0][0].shape[1] for row in inputs if row.key_values), default=0)
    mask = torch.zeros(len(inputs), length, dtype=torch.long, device=backbone.device)
    if length == 0:
        return growing_cache(), mask
    filled = next(row.key_values for row in inputs if row.key_values)
    cache = growing_cache()
    for layer, (key, value) in enumerate(filled):
        keys = key.new_zeros(len(inputs), key.shape[0], length, key.shape[2])
        values = value.new_zeros(len(inputs), value.shape[0], length, value.shape[2])
        for index, row in enumerate(inputs):
            if row.key_values:
                own_key, own_value = row.key_values[layer]
                keys[index, :, length - own_key.shape[1] :] = own_key
                values[index, :, length - own_value.shape[1] :] = own_value
                mask[index, length - own_key.shape[1] :] = 1
        cache.update(keys, values, layer)
    return cache, mask


def _step(backbone: Backbone, active: Sequence[_Place], cache: Cache, mask: Tensor) -> Tensor:
    tokens = torch.tensor([[place.tokens[-1]] for place in active], device=backbone.device)
    positions = torch.tensor([[place.position + len(place.tokens) - 1] for place in active], device=backbone.device)
    return _logits(backbone, backbone.model.get_input_embeddings()(tokens), positions, cache, mask)


def _logits(backbone: Backbone, embeddings: Tensor, positions: Tensor, cache: Cache, mask: Tensor) -> Tensor:
    whole = None if bool(mask.all()) else mask
    output = backbone.model.base_model(
        inputs_embeds=embeddings, position_ids=positions, attention_mask=whole, past_key_values=cache, use_cache=True
    )
    return backbone.logits(output.last_hidden_state[:, -1]).float()


def _extend(backbone: Backbone, active: Sequence[_Place], logits: Tensor, on_token: OnToken | None,
            cancel: Cancel | None) -> None:  # fmt: skip
    """Choose the next token of every row and note which rows are finished."""
    for place in active:
        if place.finish is None and cancel is not None and cancel(place.number):
            place.finish = "cancelled"
            _show(backbone, place, on_token)
    tokens = _choose(logits, active)
    logprobs = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0].tolist()
    for place, token, logprob in zip(active, tokens.tolist(), logprobs, strict=True):
        if place.finish is not None:
            continue
        place.tokens.append(token)
        place.logprobs.append(logprob)
        if token == backbone.end_token:
            place.finish = "stop"
        elif len(place.tokens) >= place.limits.max_tokens:
            place.finish = "length"
        _show(backbone, place, on_token)


def _choose(logits: Tensor, active: Sequence[_Place]) -> Tensor:
    """A token for each row [b] from logits [b, v]: the likeliest, or drawn with the row's own generator.

    Drawn by inverting the distribution function, one number a row, so that a row takes the same token in any batch.
    """
    scores = logits
    for index, place in enumerate(active):
        if place.limits.repetition_penalty != 1 and place.finish is None:
            scores = logits.clone() if scores is logits else scores
            _penalise(scores[index], place)
    tokens = scores.argmax(-1)
    drawn = [index for index, place in enumerate(active) if place.limits.temperature > 0 and place.finish is None]
    if not drawn:
        return tokens
    table = scores[drawn] / scores.new_tensor([active[index].limits.temperature for index in drawn])[:, None]
    for row, limits in enumerate(active[index].limits for index in drawn):
        if limits.top_k or limits.top_p < 1:
            _cut_off(table[row], limits)
    exact = torch.float if logits.device.type == "mps" else torch.double  # Apple's devices have no 64-bit numbers
    reached = table.to(exact).softmax(-1).cumsum(-1)
    numbers = torch.cat([torch.rand(1, dtype=torch.double, generator=active[index].generator) for index in drawn])
    wanted = numbers.to(exact).to(logits.device)[:, None] * reached[:, -1:]
    tokens[drawn] = torch.searchsorted(reached, wanted, right=True)[:, 0].clamp(max=logits.shape[1] - 1)
    return tokens


def _penalise(scores: Tensor, place: _Place) -> None:
    """Lower, of logits [v], those of tokens that were there: divided where positive, else multiplied.

    As endpoints do it (CTRL, section 4.1).
    """
    seen = torch.tensor(sorted({token for token in [*place.inputs.tokens, *place.tokens] if token >= 0}))
    found, penalty = scores[seen], place.limits.repetition_penalty
    scores[seen] = torch.where(found > 0, found / penalty, found * penalty)


def _cut_off(scores: Tensor, limits: Limits) -> None:
    """Leave of scores [v] the best `top_k`, and of these the fewest that together have `top_p`."""
    if limits.top_k:
        scores[scores < scores.topk(min(limits.top_k, len(scores))).values[-1]] = -torch.inf
    if limits.top_p < 1:
        ordered, order = scores.softmax(-1).sort(descending=True)
        beyond = ordered.cumsum(0) - ordered >= limits.top_p
        scores[order[beyond]] = -torch.inf


def _show(backbone: Backbone, place: _Place, on_token: OnToken | None) -> None:
    """Hand on what the new token adds to the text, holding back half a character until the reply ends."""
    if on_token is None:
        return
    text = backbone.decode(place.tokens)
    held = place.finish is None and text.endswith("\N{REPLACEMENT CHARACTER}")
    if not held and len(text) > len(place.shown):
        on_token(place.number, text[len(place.shown) :])
        place.shown = text


def _reply(backbone: Backbone, place: _Place) -> Reply:
    text = backbone.decode(place.tokens)
    return Reply(text, tuple(place.tokens), tuple(place.logprobs), place.finish or "length",
                 positions=place.inputs.memory_positions)  # fmt: skip
