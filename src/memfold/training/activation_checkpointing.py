"""Checkpoints activations: only layer inputs are kept, and the rest is recomputed in the backward pass.

It saves memory at the cost of one more forward pass, which has the adapter that was active in the first one.
Generation is impossible while it is on: `transformers` then returns no key/value cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from memfold.backbone.model import Backbone


def enable(backbone: Backbone) -> None:
    """Keep only layer inputs from now on; the model must be in training mode."""
    model: Any = backbone.model
    start = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), backbone.adapter(backbone.active_role)

    start({"use_reentrant": False, "context_fn": contexts})


@contextmanager
def enabled(backbone: Backbone, active: bool) -> Iterator[None]:
    """Checkpoint activations inside the `with` block if `active`; restores the model's mode afterwards."""
    model: Any = backbone.model
    if not active:
        yield
        return
    before = model.training
    model.train()
    enable(backbone)
    try:
        yield
    finally:
        stop = getattr(model, "activation_checkpointing_disable", None) or model.gradient_checkpointing_disable
        stop()
        model.train(before)
