from __future__ import annotations

import math

import pytest
import torch

from memfold.rl.ratios import of_sequences, of_tokens

CHANGE = torch.tensor([math.log(2.0), 0.0, math.log(0.5), math.log(4.0)])


def test_token_ratios_by_hand() -> None:
    assert of_tokens(CHANGE, (3, 1)).tolist() == pytest.approx([2.0, 1.0, 0.5, 4.0])


def test_sequence_ratios_by_hand() -> None:
    """(2 * 1 * 0.5) ** (1/3) = 1 for the first conversation; 2 and 4 give the root of 8 for a second of two."""
    assert of_sequences(CHANGE, (3, 1)).tolist() == pytest.approx([1.0, 1.0, 1.0, 4.0])
    assert of_sequences(CHANGE[[0, 3]], (2,)).tolist() == pytest.approx([math.sqrt(8.0)] * 2)


def test_a_conversation_without_tokens_takes_no_place() -> None:
    assert of_sequences(CHANGE, (0, 4, 0)).tolist() == pytest.approx([4.0**0.25] * 4)
    assert of_sequences(CHANGE[:0], (0,)).tolist() == []


def test_the_gradient_of_a_sequence_is_shared_by_its_tokens() -> None:
    """ds/dx_t = s / |y|; summed over |y| equal tokens with weight 1 / |y| each, that is GSPO's equation 10."""
    change = CHANGE[[0, 3]].clone().requires_grad_()
    of_sequences(change, (2,)).mean().backward()
    assert change.grad is not None
    assert change.grad.tolist() == pytest.approx([math.sqrt(8.0) / 2] * 2)
