"""Which token comes next in each row: the likeliest, or one drawn by the row's sampling parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memfold.backbone.decoding_row import DecodingRow
from memfold.core.types import SamplingParams


def choose_tokens(logits: Tensor, rows: Sequence[DecodingRow]) -> Tensor:
    """A token for each row [b] from logits [b, v].

    Drawn by inverting the distribution function, one number a row from the row's own generator, so that a row takes the
    same token in any batch.
    """
    scores = logits
    for index, row in enumerate(rows):
        if row.sampling.repetition_penalty != 1 and row.finish is None:
            scores = logits.clone() if scores is logits else scores
            _penalise(scores[index], row)
    tokens = scores.argmax(-1)
    drawn = [index for index, row in enumerate(rows) if row.sampling.temperature > 0 and row.finish is None]
    if not drawn:
        return tokens
    table = scores[drawn] / scores.new_tensor([rows[index].sampling.temperature for index in drawn])[:, None]
    for row_scores, index in zip(table, drawn, strict=True):
        _cut_off(row_scores, rows[index].sampling)
    exact = torch.float if logits.device.type == "mps" else torch.double  # Apple's devices have no 64-bit numbers
    reached = table.to(exact).softmax(-1).cumsum(-1)
    numbers = torch.cat([torch.rand(1, dtype=torch.double, generator=rows[index].generator) for index in drawn])
    wanted = numbers.to(exact).to(logits.device)[:, None] * reached[:, -1:]
    tokens[drawn] = torch.searchsorted(reached, wanted, right=True)[:, 0].clamp(max=logits.shape[1] - 1)
    return tokens


def _penalise(scores: Tensor, row: DecodingRow) -> None:
    """Lower, of logits [v], those of tokens that were there: divided where positive, else multiplied.

    As endpoints do it (CTRL, section 4.1).
    """
    seen = torch.tensor(sorted({token for token in [*row.rendered.tokens, *row.tokens] if token >= 0}))
    values, penalty = scores[seen], row.sampling.repetition_penalty
    scores[seen] = torch.where(values > 0, values / penalty, values * penalty)


def _cut_off(scores: Tensor, sampling: SamplingParams) -> None:
    """Leave of scores [v] the best `top_k`, and of these the fewest that together have `top_p`."""
    if sampling.top_k:
        scores[scores < scores.topk(min(sampling.top_k, len(scores))).values[-1]] = -torch.inf
    if sampling.top_p < 1:
        ordered, order = scores.softmax(-1).sort(descending=True)
        beyond = ordered.cumsum(0) - ordered >= sampling.top_p
        scores[order[beyond]] = -torch.inf
