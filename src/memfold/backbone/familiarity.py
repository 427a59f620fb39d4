"""Detects text that is unlike the training text of a model: whole texts, parts of texts, and slots without a text.

A small model answers fluently about any text, but on unfamiliar text its answers are unreliable, so users are warned.
The measures are the language modelling loss per character (not per token, because an unfamiliar text also falls into
more tokens), and the number of characters per token, which is known of slots without a text.  Limits are measured when
a model is prepared for shipping (`memfold.training.ship`); models without limits are not checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from memfold.backbone.model import Backbone
from memfold.core.model import Model
from memfold.core.types import Block

OTHER = "use a --model that was trained on such text, such as smollm2 for English"
WINDOW = 256  # characters at least, unless the text is shorter
TOKENS = 256  # of a window that are read; a familiar window has about 75
CHECKED = 8  # windows of a long text that are read: spread evenly, and then those that look the least familiar
REACH = 32  # characters within which a window ends at a space
EXCERPT = 60  # characters of a warning


@torch.no_grad()
def losses_of(backbone: Backbone, texts: Sequence[str]) -> list[float]:
    """Return the language modelling loss of each text, in nats per character, over its first `TOKENS` tokens."""
    tokenized = [backbone.tokenize(text) for text in texts]
    rows = [[backbone.end_token, *tokens[:TOKENS]] for tokens, _ in tokenized]
    read = [max(1, offsets[min(TOKENS, len(offsets)) - 1][1]) for _, offsets in tokenized]  # characters
    longest = max(map(len, rows))
    padded = [row + [backbone.end_token] * (longest - len(row)) for row in rows]
    tokens = torch.tensor(padded, device=backbone.device)
    logits = backbone.logits(backbone.hidden(tokens[:, :-1])).float()
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    sums = [float(line[: len(row) - 1].sum()) for line, row in zip(losses, rows, strict=True)]
    return [total / characters for total, characters in zip(sums, read, strict=True)]


def loss_of(backbone: Backbone, text: str) -> float:
    """Return the language modelling loss of a text, in nats per character: the mean over windows spread over it."""
    losses = losses_of(backbone, _spread(text))
    return sum(losses) / len(losses)


def characters_of(backbone: Backbone, text: str) -> float:
    """Return the number of characters per token of a text, over windows spread over it."""
    return _characters_per_token(backbone, _spread(text))


def warning(model: Model, text: str) -> str | None:
    """Return a warning if a text, or a part of it, is unlike the training text of the model; otherwise None.

    None is also returned for models without local weights or without known limits.
    """
    backbone, text = _with_limits(model), text.strip()
    if backbone is None or not text:
        return None
    spread, whole = _spread(text), f"this text is unlike the training text of {backbone.name}"
    losses = losses_of(backbone, spread)
    mean, characters = sum(losses) / len(losses), _characters_per_token(backbone, spread)
    if mean > _limit(backbone):
        return _message(whole, _nats(backbone, mean), "the reply is")
    if characters < (backbone.familiar_characters or 0.0):
        return _message(whole, _characters(backbone, characters), "the reply is")
    suspects = [window for window in _suspects(backbone, text) if window not in spread]
    losses += losses_of(backbone, suspects) if suspects else []
    worst, window = max(zip(losses, [*spread, *suspects], strict=True))
    if worst <= _limit(backbone):
        return None
    excerpt = " ".join(window.split())[:EXCERPT]
    part = f'a part of this text is unlike the training text of {backbone.name}, such as "{excerpt} ..."'
    return _message(part, _nats(backbone, worst), "replies about such parts are")


def has_limits(model: Model) -> bool:
    """Return whether it is known what text is familiar to a model."""
    return _with_limits(model) is not None


def passage_warning(model: Model, passage: str) -> str | None:
    """Return a warning if the passage that matches a question is unlike the training text of the model."""
    backbone, passage = _with_limits(model), passage.strip()
    if backbone is None or not passage:
        return None
    (loss,) = losses_of(backbone, [passage])
    if loss <= _limit(backbone):
        return None
    matching = f"the passage that matches the question is unlike the training text of {backbone.name}"
    return _message(matching, _nats(backbone, loss), "the reply is")


def slots_warning(model: Model, blocks: Sequence[Block]) -> str | None:
    """Return a warning if slots stand for unfamiliar text, judging by their number of characters per token.

    This takes no text.  It is coarser than `warning`: an unfamiliar part is noticed only if it fills most of a block.
    """
    backbone = _with_limits(model)
    counts = [(block.char_end - block.char_start) / block.token_count for block in blocks if block.token_count]
    if backbone is None or not counts or min(counts) >= (backbone.familiar_characters or 0.0):
        return None
    return (
        f"the text of this memory is unlike the training text of {backbone.name} "
        f"({_characters(backbone, min(counts))}), so the reply is not to be trusted; {OTHER}"
    )


def _with_limits(model: Model) -> Backbone | None:
    """Return the weights of a model that has limits; None for other models."""
    backbone = model.weights() if model.has_weights else None
    return backbone if backbone is not None and backbone.familiar_loss is not None else None


def _limit(backbone: Backbone) -> float:
    assert backbone.familiar_loss is not None, "only models with limits are checked"
    return backbone.familiar_loss


def _windows(text: str) -> list[str]:
    """Cut a text into windows of equal size, at least `WINDOW` characters, which end at a space if one is near."""
    count = max(1, len(text) // WINDOW)
    cuts = [0]
    for number in range(1, count):
        cut = round(number * len(text) / count)
        space = text.find(" ", cut, cut + REACH)
        cuts.append(cut if space < 0 else space)
    return [text[start:end] for start, end in pairwise([*cuts, len(text)])]


def _spread(text: str) -> list[str]:
    """Return at most `CHECKED` windows, spread evenly over a text."""
    windows = _windows(text)
    return windows[:: -(-len(windows) // CHECKED)]


def _characters_per_token(backbone: Backbone, windows: Sequence[str]) -> float:
    return sum(map(len, windows)) / max(1, sum(len(backbone.encode(window)) for window in windows))


def _suspects(backbone: Backbone, text: str) -> list[str]:
    """Return the `CHECKED` windows of a text that have the fewest characters per token, and so need a closer look."""
    windows = _windows(text)
    characters = [_characters_per_token(backbone, [window]) for window in windows]
    order = sorted(range(len(windows)), key=characters.__getitem__)
    return [windows[number] for number in order[:CHECKED]]


def _message(what: str, measured: str, subject: str) -> str:
    return f"{what} ({measured}), so {subject} not to be trusted; read the passages found by search, or {OTHER}"


def _nats(backbone: Backbone, loss: float) -> str:
    return f"{loss:.1f} nats per character, where up to {_limit(backbone):.1f} are familiar"


def _characters(backbone: Backbone, characters: float) -> str:
    return f"{characters:.1f} characters per token, where {backbone.familiar_characters:.1f} or more are familiar"
