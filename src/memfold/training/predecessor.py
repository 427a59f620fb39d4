"""A training-only loss that makes each position name the token before it, from the hidden state after the first block.

It forms the lower half of the induction circuit (a head that looks one token back), on which a matching head can grow:
a small model trained from scratch learns to find things in plain text within minutes with it, and hardly without.  The
linear head is thrown away when the stage ends; the model's architecture does not change.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from memfold.backbone.model import Backbone
from memfold.backbone.packing import Packed


class PredecessorLoss:
    """Watches the first block of a model; `head` is trained along with it."""

    def __init__(self, backbone: Backbone) -> None:
        size = int(backbone.model.config.vocab_size)
        torch.manual_seed(0)
        self.head = nn.Linear(backbone.hidden_size, size, bias=False, device=backbone.device)
        self._hidden: Tensor | None = None
        layers: Any = backbone.model.base_model.layers
        layers[0].register_forward_hook(self._keep)

    def __call__(self, packed: Packed) -> Tensor:
        """Mean loss over the places whose predecessor is a token of the same stretch; 0 where there are none."""
        assert self._hidden is not None, "the model has run"
        same = (packed.segments[:, 1:] == packed.segments[:, :-1]) & (packed.segments[:, 1:] >= 0)
        same &= (packed.tokens[:, 1:] >= 0) & (packed.tokens[:, :-1] >= 0)
        logits = self.head(self._hidden[:, 1:][same])
        loss = nn.functional.cross_entropy(logits.float(), packed.tokens[:, :-1][same], reduction="sum")
        return loss / same.sum().clamp(min=1)

    def _keep(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self._hidden = output[0] if isinstance(output, tuple) else output
