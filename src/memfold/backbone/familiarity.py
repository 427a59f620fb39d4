"""Detects text that is unlike the training text of a model, by the loss of the model on it.

A small model answers fluently about any text, but on unfamiliar text its answers are unreliable, so users are warned.
"""

from __future__ import annotations

import torch

from memfold.backbone.model import Backbone
from memfold.core.model import Model

WINDOW, WINDOWS = 256, 4  # tokens per window, number of windows
CHARACTERS = 8 * WINDOW  # per window: more than its tokens have


@torch.no_grad()
def loss_of(backbone: Backbone, text: str) -> float:
    """Return the language modelling loss of a text, in nats per token.

    It is the mean over up to `WINDOWS` windows of `WINDOW` tokens, spread evenly over the text.
    """
    count = min(WINDOWS, max(1, len(text) // CHARACTERS))
    starts = [round(index * (len(text) - CHARACTERS) / max(1, count - 1)) for index in range(count)]
    losses = [_window_loss(backbone, text[max(0, start) : max(0, start) + CHARACTERS]) for start in starts]
    return sum(losses) / len(losses)


def warning(model: Model, text: str) -> str | None:
    """Return a warning if a text is unlike the training text of the model, otherwise None.

    None is also returned for models without local weights or without a known limit.
    """
    if not model.has_weights or not text.strip():
        return None
    backbone = model.weights()
    limit = backbone.familiar_loss
    if limit is None:
        return None
    loss = loss_of(backbone, text)
    if loss <= limit:
        return None
    return (
        f"this text is unlike the training text of {backbone.name} ({loss:.1f} nats per token, where up to {limit:.1f} "
        "is familiar), so the answer is not to be trusted; read the passages found by search, or use a larger --model"
    )


def _window_loss(backbone: Backbone, text: str) -> float:
    tokens = torch.tensor([backbone.end_token, *backbone.encode(text)[:WINDOW]], device=backbone.device)
    hidden = backbone.hidden(backbone.model.get_input_embeddings()(tokens[None, :-1]))
    return float(torch.nn.functional.cross_entropy(backbone.logits(hidden)[0].float(), tokens[1:]))
