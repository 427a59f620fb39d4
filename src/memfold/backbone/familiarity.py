"""How strange a text is to a model: its own loss on it tells.

A small model answers fluently about anything; on text unlike its training text the answer is worth nothing, and the
reader must be told so.
"""

from __future__ import annotations

import torch

from memfold.backbone.model import Backbone
from memfold.core.model import Model

WINDOW, WINDOWS = 256, 4
CHARACTERS = 8 * WINDOW


@torch.no_grad()
def loss_of(backbone: Backbone, text: str) -> float:
    """Nats per token of the text read plainly, over up to four windows of 256 tokens spread over it."""
    count = min(WINDOWS, max(1, len(text) // CHARACTERS))
    starts = [round(index * (len(text) - CHARACTERS) / max(1, count - 1)) for index in range(count)]
    losses = [_window_loss(backbone, text[max(0, start) : max(0, start) + CHARACTERS]) for start in starts]
    return sum(losses) / len(losses)


def warning(model: Model, text: str) -> str | None:
    """What to tell about a text that is unlike anything the model has read; None for one that is not."""
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
        f"this text is unlike anything {backbone.name} has read ({loss:.1f} nats a token; up to {limit:.1f} is "
        "familiar) and the answer is not to be trusted; read the passages that a search finds, or give a larger --model"
    )


def _window_loss(backbone: Backbone, text: str) -> float:
    tokens = torch.tensor([backbone.end_token, *backbone.encode(text)[:WINDOW]], device=backbone.device)
    hidden = backbone.hidden(backbone.model.get_input_embeddings()(tokens[None, :-1]))
    return float(torch.nn.functional.cross_entropy(backbone.logits(hidden)[0].float(), tokens[1:]))
