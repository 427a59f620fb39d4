from __future__ import annotations

import math

import pytest
import torch

from memfold.rl.ratios import of_sequences, of_tokens

LOG_RATIO = torch.tensor([math.log(2.0), 0.0, math.log(0.5), math.log(4.0)])


def test_token_ratios_by_hand() -> None:
    assert of_tokens(LOG_RATIO, (3, 1)).tolist() == pytest.approx([2.0, 1.0, 0.5, 4.0])


def test_sequence_ratios_by_hand() -> None:
    """(2 * 1 * 0.5) ** (1/3) = 1 for the first turn; 2 and 4 give the root of 8 for a second of two."""
    assert of_sequences(LOG_RATIO, (3, 1)).tolist() == pytest.approx([1.0, 1.0, 1.0, 4.0])
    assert of_sequences(LOG_RATIO[[0, 3]], (2,)).tolist() == pytest.approx([math.sqrt(8.0)] * 2)


def test_a_turn_without_tokens_has_no_ratio() -> None:
    assert of_sequences(LOG_RATIO, (0, 4, 0)).tolist() == pytest.approx([4.0**0.25] * 4)
    assert of_sequences(LOG_RATIO[:0], (0,)).tolist() == []


def test_the_gradient_of_a_sequence_is_shared_by_its_tokens() -> None:
    """ds/dx_t = s / |y|; summed over |y| equal tokens with weight 1 / |y| each, that is GSPO's equation 10."""
    log_ratio = LOG_RATIO[[0, 3]].clone().requires_grad_()
    of_sequences(log_ratio, (2,)).mean().backward()
    assert log_ratio.grad is not None
    assert log_ratio.grad.tolist() == pytest.approx([math.sqrt(8.0) / 2] * 2)
