"""Batched decoding from rendered calls, behind prefixes of keys and values of different lengths, row by row of any age.

An own loop, because `generate()` of `transformers` silently goes wrong when a filled cache is followed by embeddings
alone.  Rows are padded on the left, with explicit mask and positions; what they begin with alike is read once; finished
rows leave the batch, some at a time; new rows join it.  Only the last position is turned into logits.
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

LEAVING = 0.25  # of the rows: taking rows out copies the cache, so finished ones stay until they are so many


class DecodingBatch:
    """Rows that are decoded together, all with one adapter.  Made of new rows, it reads their prompts at once.

    After it is made, and after each `step`, every row has one more token.
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
            logits = self.backbone.next_logits(embeddings, positions, self._cache, self._mask)
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
    """One reply for each rendered call; all in one batch, with one adapter."""
    rows = [DecodingRow(row, params) for row, params in zip(rendered, sampling, strict=True)]
    batch = DecodingBatch(backbone, rows)
    while not batch.finished:
        batch.step()
    return [row.reply(backbone) for row in rows]


def _widened(states: Tensor, width: int) -> Tensor:
    """Keys or values [b, heads, t, size] with padding before them, up to `width` positions."""
    return torch.nn.functional.pad(states, (0, 0, width - states.shape[2], 0))
