"""Slips in training: some tokens of a reply are read as the model itself would have written them.

A model that has only read right beginnings of replies loses its place in a text after its first slip.  With slips, it
learns to go on with the right token all the same.  This is scheduled sampling (Bengio et al., 2015) in one more forward
pass (Duckworth et al., 2019): every token is predicted after the right ones, so that slips do not follow from slips.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from memfold.backbone.rows import RowBatch

if TYPE_CHECKING:
    from memfold.backbone.model import Backbone


@dataclass(frozen=True)
class Slips:
    """The fraction of reply tokens whose place the model's own prediction takes, and the seed of their choice."""

    share: float
    seed: int


@torch.no_grad()
def with_slips(backbone: Backbone, batch: RowBatch, slips: Slips) -> RowBatch:
    """Return a batch in which chosen reply tokens are read as predicted; its targets stay the right ones.

    What rows share is not a reply but what they read, such as a text that is also learned as language.
    """
    row, before, token = batch.targets.unbind(1)
    chosen = torch.rand(len(token), generator=torch.Generator().manual_seed(slips.seed)) < slips.share
    predicted = backbone.logits(backbone.read(batch)[row, before]).argmax(1)
    place = (before + 1).clamp(max=batch.tokens.shape[1] - 1)
    own = batch.segments != (0 if batch.shared is None else batch.shared)
    # the first token of a reply does not stand after the position before it where rows share all but the reply
    changed = chosen.to(token.device) & own[row, place] & (batch.tokens[row, place] == token)
    tokens = batch.tokens.clone()
    tokens[row[changed], place[changed]] = predicted[changed]
    return replace(batch, tokens=tokens)
