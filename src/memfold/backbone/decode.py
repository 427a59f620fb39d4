"""Batched decoding of rendered calls, with prefixes of different lengths; rows can join and leave at any step.

`generate()` of `transformers` cannot be used: given a filled cache and embeddings, it silently gives wrong results.
Rows are padded on the left, with an explicit attention mask and position ids.  A common beginning of the prompts is
computed once.  Finished rows are removed several at a time.  Logits are computed for the last position only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from memfold.backbone.choose import choose_tokens
from memfold.backbone.decoding_row import DecodingRow
from memfold.backbone.model import Backbone
from memfold.backbone.prefill import prefill
from memfold.core.system import Rendered
from memfold.core.types import Reply, SamplingParams

LEAVING = 0.25  # fraction of finished rows at which they are removed; each removal copies the cache


class DecodingBatch:
    """Rows that are decoded together with one adapter; creating a batch prefills the prompts of its rows.

    Creating the batch and each `step` add one token to every row that is not finished.
    """

    @torch.no_grad()
    def __init__(self, backbone: Backbone, rows: Sequence[DecodingRow]) -> None:
        self.backbone, self.rows = backbone, list(rows)
        self.adapter = rows[0].rendered.adapter
        with backbone.adapter(self.adapter):
            self._cache, self._mask, logits = prefill(backbone, [row.rendered for row in rows])
        self._extend(logits)

    @property
    def width(self) -> int:
        """Number of token positions per row in the cache, including padding."""
        return int(self._mask.shape[1])

    @property
    def finished(self) -> bool:
        """Whether all rows are finished."""
        return all(row.finish for row in self.rows)

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
        embeddings = self.backbone.model.get_input_embeddings()(tokens)
        with self.backbone.adapter(self.adapter):
            logits = self.backbone.next_logits(embeddings, positions, self._cache, self._mask)
        self._extend(logits)

    def _remove_finished(self) -> None:
        """Remove the finished rows if there are enough of them."""
        kept = [index for index, row in enumerate(self.rows) if row.finish is None]
        if len(kept) < len(self.rows) and len(self.rows) - len(kept) >= LEAVING * len(self.rows):
            indices = torch.tensor(kept, device=self._mask.device)
            self._cache.batch_select_indices(indices)
            self._mask, self.rows = self._mask[indices], [self.rows[index] for index in kept]

    def _extend(self, logits: Tensor) -> None:
        """Select the next token of each row and determine which rows are finished."""
        for row in self.rows:
            if row.finish is None and row.cancelled:
                row.finish = "cancelled"
                row.show(self.backbone)
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
            row.show(self.backbone)


@torch.no_grad()
def generate(backbone: Backbone, rendered: Sequence[Rendered], sampling: Sequence[SamplingParams]) -> list[Reply]:
    """Decode calls with the same adapter in one batch, and return one reply per call."""
    rows = [DecodingRow(row, params) for row, params in zip(rendered, sampling, strict=True)]
    batch = DecodingBatch(backbone, rows)
    while not batch.finished:
        batch.step()
    return [row.reply(backbone) for row in rows]


def _padded(states: Tensor, width: int) -> Tensor:
    """Pad keys or values [b, heads, t, size] on the left to `width` positions."""
    return torch.nn.functional.pad(states, (0, 0, width - states.shape[2], 0))
