"""Activations computed again in the backward pass: only the inputs of layers wait for it, at the cost of one more pass.

Only for forward passes that are trained on: the library drops keys and values meanwhile, so nothing can be generated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from memfold.backbone.model import Backbone


def begin(backbone: Backbone) -> None:
    """Keep only the inputs of layers from now on; the model must be in training mode."""
    model: Any = backbone.model
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


@contextmanager
def recomputed(backbone: Backbone, active: bool) -> Iterator[None]:
    """For some passes alone; afterwards the model is as it was."""
    model: Any = backbone.model
    if not active:
        yield
        return
    before = model.training
    model.train()
    begin(backbone)
    try:
        yield
    finally:
        disable = getattr(model, "activation_checkpointing_disable", None) or model.gradient_checkpointing_disable
        disable()
        model.train(before)
