"""Batched decoding of rendered calls, with prefixes of different lengths; rows can join and leave at any step.

`generate()` of `transformers` cannot be used: given a filled cache and embeddings, it silently gives wrong results.
Rows are padded on the left, with an explicit attention mask and position ids.  A common beginning of the prompts is
computed once.  Finished rows are removed several at a time.  Logits are computed for the last position only.

A row of a model whose rows cannot be combined (`memfold.backbone.architectures`) has a batch of its own.  So does a row
that reaches the length at which the rotary table changes: its keys are computed again with the other table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from memfold.backbone.cache import GrowingLayer, select_rows
from memfold.backbone.choose import choose_tokens
from memfold.backbone.decoding_row import DecodingRow
from memfold.backbone.model import Backbone
from memfold.backbone.prefill import prefill
from memfold.core.errors import CallError
from memfold.core.system import Rendered
from memfold.core.types import Reply, SamplingParams

OTHER_PRECISION = 'a model that overflows in float16 can be used with dtype="bfloat16" or "float32"'
DAMAGED = "its weights may be damaged; download the model again, or use another --model"
LEAVING = 0.25  # fraction of finished rows at which they are removed; each removal copies the cache


class DecodingBatch:
    """Rows that are decoded together with one adapter; creating a batch prefills the prompts of its rows.

    Creating the batch and each `step` add one token to every row that is not finished.  All rows have the same `group`
    (see `DecodingRow`).
    """

    @torch.no_grad()
    def __init__(self, backbone: Backbone, rows: Sequence[DecodingRow]) -> None:
        self.backbone, self.rows = backbone, list(rows)
        self.adapter, self.group = rows[0].rendered.adapter, rows[0].group(backbone)
        self._ends = backbone.end_tokens
        self._positions = 0 if backbone.position_limit is None else backbone.position_limit.count
        with backbone.adapter(self.adapter):
            self._cache, self._mask, logits = prefill(backbone, [row.so_far for row in rows])
        self._extend(logits)

    @property
    def width(self) -> int:
        """Number of token positions per row in the cache, including padding."""
        return int(self._mask.shape[1])

    @property
    def finished(self) -> bool:
        """Whether all rows are finished."""
        return all(row.finish for row in self.rows)

    @property
    def can_join(self) -> bool:
        """Whether the cache holds nothing but keys and values, so that rows of another width can be added."""
        layers_join = all(isinstance(layer, GrowingLayer) for layer in self._cache.layers)
        return layers_join and self.backbone.fit.rows != "alone"

    def join(self, other: DecodingBatch) -> None:
        """Add the rows of another batch; the narrower of the two caches is padded to the width of the other."""
        self._remove_finished()
        other._remove_finished()
        width = max(self.width, other.width)
        layers: Any = zip(self._cache.layers, other._cache.layers, strict=True)
        for mine, theirs in layers:
            mine.keys = torch.cat([_padded(mine.keys, width), _padded(theirs.keys, width)])
            mine.values = torch.cat([_padded(mine.values, width), _padded(theirs.values, width)])
        masks = [torch.nn.functional.pad(mask, (width - mask.shape[1], 0)) for mask in (self._mask, other._mask)]
        self._mask = torch.cat(masks)
        self.rows += other.rows

    @torch.no_grad()
    def step(self) -> None:
        """Decode one token in each row that is not finished."""
        self._remove_finished()
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self.rows), 1)], 1)
        device = self.backbone.device
        tokens = torch.tensor([[row.tokens[-1]] for row in self.rows], device=device)
        positions = torch.tensor([[row.position + len(row.tokens) - 1] for row in self.rows], device=device)
        with self.backbone.adapter(self.adapter):
            logits = self.backbone.next_logits(tokens, positions, self._cache, self._mask)
        self._extend(logits)

    def take_changed(self) -> list[DecodingRow]:
        """Remove and return the rows whose next token has another rotary table than those before it."""
        kept = [index for index, row in enumerate(self.rows) if row.finish or row.group(self.backbone) == self.group]
        changed = [row for index, row in enumerate(self.rows) if index not in kept]
        if changed:
            self._keep(kept)
        return changed

    def _remove_finished(self) -> None:
        """Remove the finished rows if there are enough of them."""
        kept = [index for index, row in enumerate(self.rows) if row.finish is None]
        if len(kept) < len(self.rows) and len(self.rows) - len(kept) >= LEAVING * len(self.rows):
            self._keep(kept)

    def _keep(self, kept: Sequence[int]) -> None:
        indices = torch.tensor(kept, dtype=torch.long, device=self._mask.device)
        select_rows(self._cache, indices)
        self._mask, self.rows = self._mask[indices], [self.rows[index] for index in kept]

    def _extend(self, logits: Tensor) -> None:
        """Select the next token of each row and determine which rows are finished."""
        for row in self.rows:
            if row.finish is None and row.cancelled:
                row.finish = "cancelled"
                row.show(self.backbone)
        tokens = choose_tokens(logits, self.rows)
        logprobs = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0].tolist()
        if any(map(math.isnan, logprobs)):
            precision = self.backbone.precision
            advice = OTHER_PRECISION if precision == "float16" else DAMAGED
            raise CallError("policy", f"the logits are not finite in {precision}; {advice}")
        for row, token, logprob in zip(self.rows, tokens.tolist(), logprobs, strict=True):
            if row.finish is not None:
                continue
            row.tokens.append(token)
            row.logprobs.append(logprob)
            if token in self._ends:
                row.finish = "stop"
            elif len(row.tokens) >= row.limit or (self._positions and row.position + len(row.tokens) > self._positions):
                row.finish = "length"
            elif row.repeats:
                row.finish = "repetition"
            row.show(self.backbone)


def advance(batches: Sequence[DecodingBatch]) -> list[DecodingBatch]:
    """Decode one token in every row of the batches, and return those that are not finished."""
    result = []
    for batch in batches:
        changed = [] if batch.finished else batch.take_changed()
        result += [DecodingBatch(batch.backbone, changed)] if changed else []
        if not batch.finished:
            batch.step()
            result.append(batch)
    return [batch for batch in result if not batch.finished]


@torch.no_grad()
def generate(backbone: Backbone, rendered: Sequence[Rendered], sampling: Sequence[SamplingParams]) -> list[Reply]:
    """Decode calls in as few batches as possible, and return one reply per call."""
    rows = [DecodingRow(row, params) for row, params in zip(rendered, sampling, strict=True)]
    groups: dict[Any, list[DecodingRow]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(index if backbone.fit.rows == "alone" else row.group(backbone), []).append(row)
    batches = [DecodingBatch(backbone, group) for group in groups.values()]
    while batches:
        batches = advance(batches)
    return [row.reply(backbone) for row in rows]


def _padded(states: Tensor, width: int) -> Tensor:
    """Pad keys or values [b, heads, t, size] on the left to `width` positions."""
    return torch.nn.functional.pad(states, (0, 0, width - states.shape[2], 0))
