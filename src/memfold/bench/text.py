"""Makes the text for benchmarks: filler of a given length, and a question."""

from __future__ import annotations

from random import Random

from memfold.backbone.model import Backbone
from memfold.tasks.filler import sentence

QUESTION = "Where was the baker of the town born?"


def filler(backbone: Backbone, length: int, seed: int = 0) -> str:
    """Return filler of `length` tokens, or a few less if the last token would be cut."""
    rng, pieces, tokens = Random(seed), list[str](), 0
    while tokens < length:
        more = " ".join(sentence(rng) for _ in range(min(64, 1 + (length - tokens) // 16))) + "\n"
        tokens += len(backbone.encode(more))
        pieces.append(more)
    text = "".join(pieces)
    offsets = backbone.tokenize(text)[1]
    while len(offsets) > length:
        text = text[: offsets[length][0]]
        offsets = backbone.tokenize(text)[1]
    return text
