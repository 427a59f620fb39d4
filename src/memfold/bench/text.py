"""Text to time things with: filler of about a length, and a question."""

from __future__ import annotations

from random import Random

from memfold.backbone.model import Backbone
from memfold.tasks.filler import sentence

QUESTION = "Where was the baker of the town born?"


def filler(backbone: Backbone, length: int, seed: int = 0) -> str:
    """Filler of `length` tokens or a little more."""
    rng, pieces, tokens = Random(seed), list[str](), 0
    while tokens < length:
        more = " ".join(sentence(rng) for _ in range(min(64, 1 + (length - tokens) // 16))) + "\n"
        tokens += len(backbone.encode(more))
        pieces.append(more)
    return "".join(pieces)
