"""Masks by hand: where windows begin in padded and packed rows, and what stays as it is in transformers."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import MistralConfig
from transformers.masking_utils import create_sliding_window_causal_mask

from memfold.backbone.masks import Visibility, padded

WINDOW = 2
CONFIG = MistralConfig(sliding_window=WINDOW, num_hidden_layers=1)


def seen(visibility: Visibility | None, length: int, implementation: str = "sdpa") -> list[list[list[int]]]:
    """The positions that each of the last `length` positions of each row attends to, in a layer with a window of 2."""
    CONFIG._attn_implementation = implementation
    rows = 1 if visibility is None else len(visibility.valid)
    arguments = {"config": CONFIG, "inputs_embeds": torch.zeros(rows, length, 4), "past_key_values": None}
    if visibility is None:
        mask = create_sliding_window_causal_mask(**arguments, attention_mask=torch.ones(1, length))
    else:
        with visibility.active():
            mask = create_sliding_window_causal_mask(**arguments, attention_mask=visibility.valid)
    allowed: Tensor = mask if mask.dtype == torch.bool else mask == 0
    return [[query.nonzero()[:, 0].tolist() for query in row[0]] for row in allowed]


def test_a_window_counts_from_the_beginning_of_a_padded_row() -> None:
    valid = torch.tensor([[True, True, True, True], [False, False, True, True], [True, False, False, True]])
    expected = [[[0], [0, 1], [1, 2], [2, 3]], [[0], [1], [2], [2, 3]], [[0], [0, 1], [0, 2], [0, 3]]]
    assert seen(padded(valid, 4), 4) == expected
    assert seen(padded(valid, 4), 4, "eager") == expected


def test_a_window_counts_within_a_packed_row() -> None:
    """Two rows share positions 0 to 2; the first goes on at 3 and 4, the second at 5."""
    order = torch.tensor([[0, 1, 2, 3, 4, 3]])
    segment = torch.tensor([0, 0, 0, 1, 1, 2])
    allowed = (segment == 0) | (segment[:, None] == segment)
    visibility = Visibility(order, torch.ones(1, 6, dtype=torch.bool), allowed[None])
    assert seen(visibility, 6) == [[[0], [0, 1], [1, 2], [2, 3], [3, 4], [2, 5]]]


def test_a_window_reaches_as_far_ahead_as_back() -> None:
    valid = torch.tensor([[True, True, True, False]])
    visibility = Visibility(torch.arange(4)[None], valid, valid[:, None, :].expand(1, 4, 4), bidirectional=True)
    assert seen(visibility, 4)[0][:3] == [[0, 1], [0, 1, 2], [1, 2]]


def test_masks_are_those_of_transformers_outside_of_a_visibility() -> None:
    with padded(torch.tensor([[False, True]]), 2).active():
        pass
    assert seen(None, 4) == [[[0], [0, 1], [1, 2], [2, 3]]]
