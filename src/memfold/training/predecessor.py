"""Adds a training-only loss: the hidden state after the first block predicts the previous token.

It trains the lower half of the induction circuit (a previous-token head), on which a matching head can build.  With
it, a small model trained from scratch learns retrieval in plain text within minutes; without it, it hardly learns at
all.  The linear head is discarded when the stage ends, and the architecture of the model does not change.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from memfold.backbone.model import Backbone
from memfold.backbone.rows import RowBatch


class PredecessorLoss:
    """Reads the output of a model's first block through a hook; `head` is trained along with the model."""

    def __init__(self, backbone: Backbone) -> None:
        size = int(backbone.model.config.vocab_size)
        torch.manual_seed(0)
        self.head = nn.Linear(backbone.hidden_size, size, bias=False, device=backbone.device)
        self._hidden: Tensor | None = None
        layers: Any = backbone.model.base_model.layers
        layers[0].register_forward_hook(self._keep)

    def __call__(self, batch: RowBatch) -> Tensor:
        """Mean loss over the positions whose predecessor is a token of the same stretch; 0 where there are none."""
        assert self._hidden is not None, "the model has run"
        same = (batch.segments[:, 1:] == batch.segments[:, :-1]) & (batch.segments[:, 1:] >= 0)
        same &= (batch.tokens[:, 1:] >= 0) & (batch.tokens[:, :-1] >= 0)
        logits = self.head(self._hidden[:, 1:][same])
        loss = nn.functional.cross_entropy(logits.float(), batch.tokens[:, :-1][same], reduction="sum")
        return loss / same.sum().clamp(min=1)

    def _keep(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self._hidden = output[0] if isinstance(output, tuple) else output
