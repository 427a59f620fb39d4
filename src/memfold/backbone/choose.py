"""Selects the next token of each row, greedily or with the sampling parameters of the row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memfold.backbone.decoding_row import DecodingRow
from memfold.core.types import SamplingParams


def choose_tokens(logits: Tensor, rows: Sequence[DecodingRow]) -> Tensor:
    """Return the next token id of each row [b], given logits [b, v].

    Tokens are sampled by inverting the cumulative distribution, with one random number per row from the generator of
    the row.  The sampled tokens of a row therefore do not depend on the batch.
    """
    scores = logits
    for index, row in enumerate(rows):
        if row.sampling.repetition_penalty != 1 and row.finish is None:
            scores = logits.clone() if scores is logits else scores
            _penalise(scores[index], row)
    tokens = scores.argmax(-1)
    sampled = [index for index, row in enumerate(rows) if row.sampling.temperature > 0 and row.finish is None]
    if not sampled:
        return tokens
    tempered = scores[sampled] / scores.new_tensor([rows[index].sampling.temperature for index in sampled])[:, None]
    for row_scores, index in zip(tempered, sampled, strict=True):
        _apply_top_k_and_top_p(row_scores, rows[index].sampling)
    dtype = torch.float if logits.device.type == "mps" else torch.double  # MPS does not support float64
    cumulative = tempered.to(dtype).softmax(-1).cumsum(-1)
    numbers = torch.cat([torch.rand(1, dtype=torch.double, generator=rows[index].generator) for index in sampled])
    thresholds = numbers.to(dtype).to(logits.device)[:, None] * cumulative[:, -1:]
    tokens[sampled] = torch.searchsorted(cumulative, thresholds, right=True)[:, 0].clamp(max=logits.shape[1] - 1)
    return tokens


def _penalise(scores: Tensor, row: DecodingRow) -> None:
    """Apply the repetition penalty to logits [v], in place (CTRL, section 4.1).

    The logits of tokens in the reply, and unless `penalised` is "reply" of those in the prompt, are divided by the
    penalty if positive, and multiplied by it otherwise, as inference servers do.
    """
    prompt = row.rendered.tokens if row.sampling.penalised == "all" else ()
    seen = torch.tensor(sorted({token for token in (*prompt, *row.tokens) if token >= 0}), dtype=torch.long)
    values, penalty = scores[seen], row.sampling.repetition_penalty
    scores[seen] = torch.where(values > 0, values / penalty, values * penalty)


def _apply_top_k_and_top_p(scores: Tensor, sampling: SamplingParams) -> None:
    """Keep the `top_k` highest scores [v], then the fewest whose probabilities sum to `top_p`; others become -inf.

    The scores are modified in place.
    """
    if sampling.top_k:
        scores[scores < scores.topk(min(sampling.top_k, len(scores))).values[-1]] = -torch.inf
    if sampling.top_p < 1:
        ordered, order = scores.softmax(-1).sort(descending=True)
        outside = ordered.cumsum(0) - ordered >= sampling.top_p
        scores[order[outside]] = -torch.inf
