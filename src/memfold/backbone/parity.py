"""Finds what can be computed with an architecture that is not in the table (`memfold.backbone.architectures`).

Two rows are scored and decoded in each layout, and compared with the model's own forward pass in `transformers`.  The
simplest layout, each row alone, must be right: its error is the rounding of decoding with a cache.  The most general
layout whose error is not much larger is used.  Short rows suffice: what is wrong, such as a mask or a position, is
wrong by far more than the rounding of a data type, and a layout that is refused without need only costs time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from memfold.backbone.architectures import Fit, RowLayout
from memfold.backbone.cache import growing_cache
from memfold.backbone.model import Backbone
from memfold.backbone.prefill import prefill
from memfold.backbone.rows import Row
from memfold.backbone.score import score_rows
from memfold.core.errors import CheckpointError
from memfold.core.system import Prefix, Rendered
from memfold.core.types import Text

LAYOUTS: tuple[RowLayout, ...] = ("packed", "padded", "alone")
# errors are in nats, as a mean over the vocabulary; the first number is for float32, the second for types of 16 bits
RIGHT = (1e-3, 0.25)  # largest error of a row alone
ROUNDING = (1e-3, 0.01)  # error that any layout may have
BESIDE = 2  # error of a layout, as a multiple of that of a row alone
COMMON, LONGER, SHORTER = 33, 49, 38  # tokens that two rows begin with, enough to be read once; and of each of them
TARGETS = 3  # the last tokens of a row


@torch.no_grad()
def measured_fit(backbone: Backbone) -> Fit:
    """Return the most general fit of a model whose numbers are right.

    Raises:
        CheckpointError: if no layout gives the numbers of the model's own forward pass.
    """
    kind = 0 if backbone.dtype == torch.float32 else 1
    rows, tokens = _rows(backbone)
    expected = [_own(backbone, each) for each in tokens]
    try:
        alone = _error(backbone, "alone", rows, expected)
        reason = f"log-probabilities differ by {alone:.2g}" if alone > RIGHT[kind] else ""
    except Exception as error:  # whatever the class of a model raises for arguments that it does not know
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
    if reason:
        raise CheckpointError(
            f"model {backbone.name!r} cannot be used: {type(backbone.model).__name__} is not in the table of "
            f"docs/models.md, and its numbers here are not those of its own forward pass ({reason}); use a model of "
            "the table"
        )
    largest = max(ROUNDING[kind], BESIDE * alone)
    layout = next(layout for layout in LAYOUTS if _is_right(backbone, layout, rows, expected, largest))
    return Fit(layout, slots=_reads_embeddings(backbone, tokens[0], expected[0], largest))


def _is_right(backbone: Backbone, layout: RowLayout, rows: list[Row], expected: list[Tensor], largest: float) -> bool:
    if layout == "alone":
        return True
    try:
        return _error(backbone, layout, rows, expected) <= largest
    except Exception:  # a cache that cannot be used in this layout
        return False


def _rows(backbone: Backbone) -> tuple[list[Row], list[list[int]]]:
    """Return two rows with a common beginning, the last tokens of each as targets; and all tokens of each."""
    count = int(backbone.model.config.get_text_config().vocab_size)
    numbers = torch.randint(count, (LONGER + SHORTER,), generator=torch.Generator().manual_seed(0)).tolist()
    rows, tokens = [], []
    for rest in (numbers[COMMON:LONGER], numbers[LONGER + COMMON :]):
        whole = [*numbers[:COMMON], *rest]
        call, targets = whole[:-TARGETS], tuple(whole[-TARGETS:])
        parts = Text(tokens=tuple(call[:COMMON])), Text(tokens=tuple(call[COMMON:]))
        rendered = Rendered(call, list(range(len(call))), (COMMON, len(call) - COMMON))
        rows.append(Row(rendered, parts, targets))
        tokens.append(whole)
    return rows, tokens


def _own(backbone: Backbone, tokens: list[int]) -> Tensor:
    """Return the log-probabilities [t, v] of the model's own forward pass."""
    ids = torch.tensor([tokens], device=backbone.device)
    logits: Tensor = backbone.model(input_ids=ids, use_cache=False).logits[0]
    return logits.float().log_softmax(-1)


def _error(backbone: Backbone, layout: RowLayout, rows: list[Row], expected: list[Tensor]) -> float:
    """Return the largest difference of log-probabilities, each a mean over the vocabulary, with a layout of rows."""
    backbone.fit = Fit(layout)
    scored, _ = score_rows(backbone, rows, [0] * len(rows))
    found = [backbone.logits(scores.hidden) for scores in scored]
    wanted = [own[-TARGETS - 1 : -1] for own in expected]
    found += _decoded(backbone, [rows] if backbone.fit.rows != "alone" else [[row] for row in rows])
    wanted += [own[-TARGETS - 1 : -TARGETS + 1] for own in expected]
    if backbone.fit.rows == "packed":
        found += _decoded(backbone, [[_behind_prefix(backbone, row) for row in rows]])
        wanted += [own[-TARGETS - 1 : -TARGETS + 1] for own in expected]
    differences = [
        (one.float().log_softmax(-1) - other).abs().mean(-1).max() for one, other in zip(found, wanted, strict=True)
    ]
    return float(torch.stack(differences).nan_to_num(torch.inf).max())


def _decoded(backbone: Backbone, batches: list[list[Row]]) -> list[Tensor]:
    """Return the logits [2, v] after the call of each row, and after its first target; batches take turns."""
    prefilled, found = [prefill(backbone, [row.rendered for row in batch]) for batch in batches], list[Tensor]()
    for batch, (cache, mask, first) in zip(batches, prefilled, strict=True):
        mask = torch.cat([mask, mask.new_ones(len(batch), 1)], 1)
        tokens = torch.tensor([[row.targets[0]] for row in batch], device=backbone.device)
        positions = torch.tensor([[row.rendered.positions[-1] + 1] for row in batch], device=backbone.device)
        second = backbone.next_logits(tokens, positions, cache, mask)
        found += list(torch.stack([first, second], 1))
    return found


def _behind_prefix(backbone: Backbone, row: Row) -> Row:
    """Return a row whose beginning is a prefix of keys and values."""
    tokens, length = row.rendered.tokens, min(COMMON, len(row.rendered.tokens) - 1)
    cache = growing_cache(backbone.model.config)
    backbone.forward(torch.tensor([tokens[:length]], device=backbone.device), cache=cache)
    layers: Any = cache.layers
    prefix = Prefix(tuple((layer.keys[0], layer.values[0]) for layer in layers))
    rest = Rendered(tokens[length:], row.rendered.positions[length:], (len(tokens) - length,), prefix=prefix)
    return Row(rest, targets=row.targets)


def _reads_embeddings(backbone: Backbone, tokens: list[int], expected: Tensor, largest: float) -> bool:
    """Return whether the model computes the same from embeddings as from tokens, and accepts any other embeddings."""
    embeddings = backbone.embed(tokens)[None]
    try:
        hidden = backbone.hidden(embeddings)
        backbone.hidden(embeddings * 1.01)
    except Exception:  # whatever the class of a model raises for embeddings that it cannot use
        return False
    found = backbone.logits(hidden)[0].float().log_softmax(-1)
    return float((found - expected).abs().mean(-1).max()) <= largest
