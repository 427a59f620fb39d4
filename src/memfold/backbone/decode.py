"""Batched decoding from rendered calls, behind prefixes of keys and values of different lengths, row by row of any age.

An own loop, because `generate()` of `transformers` silently goes wrong when a filled cache is followed by embeddings
alone.  Rows are padded on the left, with explicit mask and positions; what they begin with alike is read once; finished
rows leave the batch, some at a time; new rows join it.  Only the last position is turned into logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from memfold.backbone.cache import growing_cache
from memfold.backbone.choose import choose_tokens
from memfold.backbone.model import Backbone
from memfold.backbone.rows import pad, prefix_layers, prefix_mask
from memfold.core.system import SLOT, Rendered
from memfold.core.types import Finish, Reply, SamplingParams

LEAVING = 0.25  # of the rows: taking rows out copies the cache, so finished ones stay until they are so many
SHARED_POSITIONS = 32  # a common beginning shorter than this costs less than a pass of its own


@dataclass(eq=False)
class DecodingRow:
    """One reply while it is being written; `on_text` receives what each token adds to its text."""

    rendered: Rendered
    sampling: SamplingParams
    on_text: Callable[[str], None] | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Finish | None = None
    cancelled: bool = False
    shown: str = ""

    def __post_init__(self) -> None:
        self.position = self.rendered.positions[-1] + 1
        self.generator = torch.Generator().manual_seed(self.sampling.seed)

    def reply(self, backbone: Backbone) -> Reply:
        """What was written."""
        return Reply(
            text=backbone.decode(self.tokens),
            tokens=tuple(self.tokens),
            logprobs=tuple(self.logprobs),
            finish=self.finish or "length",
            positions=self.rendered.memory_positions,
        )


class DecodingBatch:
    """Rows that are decoded together, all with one adapter.  Made of new rows, it reads their prompts at once.

    After it is made, and after each `step`, every row has one more token.
    """

    @torch.no_grad()
    def __init__(self, backbone: Backbone, rows: Sequence[DecodingRow]) -> None:
        self.backbone, self.rows = backbone, list(rows)
        self.adapter = rows[0].rendered.adapter
        with backbone.adapter(self.adapter):
            self._cache, self._mask, logits = _prefill(backbone, [row.rendered for row in rows])
        self._extend(logits)

    @property
    def width(self) -> int:
        """Token positions of each row in the cache, padding included."""
        return int(self._mask.shape[1])

    @property
    def finished(self) -> bool:
        """Whether no row is being written any more."""
        return all(row.finish for row in self.rows)

    def join(self, other: DecodingBatch) -> None:
        """Take the rows of another batch in; its caches are padded to the same width, or these are."""
        self._leave()
        other._leave()
        width = max(self.width, other.width)
        layers: Any = zip(self._cache.layers, other._cache.layers, strict=True)
        for mine, theirs in layers:
            mine.keys = torch.cat([_widened(mine.keys, width), _widened(theirs.keys, width)])
            mine.values = torch.cat([_widened(mine.values, width), _widened(theirs.values, width)])
        masks = [torch.nn.functional.pad(one, (width - one.shape[1], 0)) for one in (self._mask, other._mask)]
        self._mask = torch.cat(masks)
        self.rows += other.rows

    @torch.no_grad()
    def step(self) -> None:
        """Write one more token in each row that is not finished."""
        self._leave()
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self.rows), 1)], 1)
        device = self.backbone.device
        tokens = torch.tensor([[row.tokens[-1]] for row in self.rows], device=device)
        positions = torch.tensor([[row.position + len(row.tokens) - 1] for row in self.rows], device=device)
        embeddings = self.backbone.model.get_input_embeddings()(tokens)
        with self.backbone.adapter(self.adapter):
            logits = _logits(self.backbone, embeddings, positions, self._cache, self._mask)
        self._extend(logits)

    def _leave(self) -> None:
        """Take finished rows out once there are enough of them."""
        kept = [index for index, row in enumerate(self.rows) if row.finish is None]
        if len(kept) < len(self.rows) and len(self.rows) - len(kept) >= LEAVING * len(self.rows):
            chosen = torch.tensor(kept, device=self._mask.device)
            self._cache.batch_select_indices(chosen)
            self._mask, self.rows = self._mask[chosen], [self.rows[index] for index in kept]

    def _extend(self, logits: Tensor) -> None:
        """Choose the next token of every row and note which rows are finished."""
        for row in self.rows:
            if row.finish is None and row.cancelled:
                row.finish = "cancelled"
                _show(self.backbone, row)
        tokens = choose_tokens(logits, self.rows)
        logprobs = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0].tolist()
        for row, token, logprob in zip(self.rows, tokens.tolist(), logprobs, strict=True):
            if row.finish is not None:
                continue
            row.tokens.append(token)
            row.logprobs.append(logprob)
            if token == self.backbone.end_token:
                row.finish = "stop"
            elif len(row.tokens) >= row.sampling.max_tokens:
                row.finish = "length"
            _show(self.backbone, row)


@torch.no_grad()
def generate(backbone: Backbone, rendered: Sequence[Rendered], sampling: Sequence[SamplingParams]) -> list[Reply]:
    """One reply for each rendered call; all in one batch, with one adapter."""
    rows = [DecodingRow(row, params) for row, params in zip(rendered, sampling, strict=True)]
    batch = DecodingBatch(backbone, rows)
    while not batch.finished:
        batch.step()
    return [row.reply(backbone) for row in rows]


@torch.no_grad()
def decode_again(backbone: Backbone, rendered: Sequence[Rendered], replies: Sequence[Sequence[int]]) -> None:
    """Feed replies that are known, rows leaving as they end: what decoding costs where no token is chosen."""
    cache, mask, _ = _prefill(backbone, rendered)
    left = list(range(len(rendered)))
    for count in range(1, max(map(len, replies)) + 1):
        active = [number for number in left if len(replies[number]) > count]
        if not active:
            return
        if len(left) - len(active) >= LEAVING * len(left):
            chosen = torch.tensor([left.index(number) for number in active], device=mask.device)
            cache.batch_select_indices(chosen)
            mask, left = mask[chosen], active
        mask = torch.cat([mask, mask.new_ones(len(left), 1)], 1)
        tokens = [[replies[number][min(count, len(replies[number])) - 1]] for number in left]
        positions = [[rendered[number].positions[-1] + count] for number in left]
        embeddings = backbone.model.get_input_embeddings()(torch.tensor(tokens, device=backbone.device))
        _logits(backbone, embeddings, torch.tensor(positions, device=backbone.device), cache, mask)


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


def _prefill(backbone: Backbone, rendered: Sequence[Rendered]) -> tuple[Cache, Tensor, Tensor]:
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
    return cache, mask, _logits(backbone, embeddings, batch.positions, cache, mask)


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


def _logits(backbone: Backbone, embeddings: Tensor, positions: Tensor, cache: Cache, mask: Tensor) -> Tensor:
    whole = None if bool(mask.all()) else mask
    output = backbone.model.base_model(
        inputs_embeds=embeddings, position_ids=positions, attention_mask=whole, past_key_values=cache, use_cache=True
    )
    return backbone.logits(output.last_hidden_state[:, -1]).float()


def _widened(states: Tensor, width: int) -> Tensor:
    """Keys or values [b, heads, t, size] with padding before them, up to `width` positions."""
    return torch.nn.functional.pad(states, (0, 0, width - states.shape[2], 0))


def _show(backbone: Backbone, row: DecodingRow) -> None:
    """Hand on what the new token adds to the text, holding back half a character until the reply ends."""
    if row.on_text is None:
        return
    text = backbone.decode(row.tokens)
    held = row.finish is None and text.endswith("\N{REPLACEMENT CHARACTER}")
    if not held and len(text) > len(row.shown):
        row.on_text(text[len(row.shown) :])
        row.shown = text
