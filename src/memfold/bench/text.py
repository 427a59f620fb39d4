"""Makes the text for benchmarks: filler of a given length, and a question, which a sentence in it may answer."""

from __future__ import annotations

from random import Random

from memfold.backbone.model import Backbone
from memfold.tasks.filler import sentence

QUESTION = "Where was the baker of the town born?"
FACT, ASKED = "Tafen Wen was born in Dorhe.", "Where was Tafen Wen born?"


def filler(backbone: Backbone, length: int, seed: int = 0) -> str:
    """Return filler of `length` tokens, or a few less if the last token would be cut."""
    rng, pieces, tokens = Random(seed), list[str](), 0
    while tokens < length:
        more = " ".join(sentence(rng) for _ in range(min(64, 1 + (length - tokens) // 16))) + "\n"
        tokens += len(backbone.encode(more))
        pieces.append(more)
    return _cut(backbone, "".join(pieces), length)


def filler_with_fact(backbone: Backbone, length: int, seed: int = 0) -> str:
    """Return filler of about `length` tokens with `FACT`, which answers `ASKED`, in its middle."""
    lines = filler(backbone, max(1, length - len(backbone.encode(f"{FACT} "))), seed).split(". ")
    middle = len(lines) // 2
    text = ". ".join([*lines[:middle], FACT.removesuffix("."), *lines[middle:]])
    return _cut(backbone, text, length)


def _cut(backbone: Backbone, text: str, length: int) -> str:
    offsets = backbone.tokenize(text)[1]
    while len(offsets) > length:
        text = text[: offsets[length][0]]
        offsets = backbone.tokenize(text)[1]
    return text
