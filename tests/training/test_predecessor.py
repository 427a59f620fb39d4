from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from memfold.backbone.model import Backbone
from memfold.backbone.rows import RowBatch
from memfold.core.system import SLOT
from memfold.training.predecessor import PredecessorLoss

#  positions        0  1  2  3     4     5  6  7  8
TOKENS = [[5, 6, 7, SLOT, SLOT, 8, 9, 3, 4], [2, 3, 4, 0, 0, 0, 0, 0, 0]]
SEGMENTS = [[0, 0, 0, 0, 0, 0, 1, 1, 2], [0, 0, 1, -1, -1, -1, -1, -1, -1]]
# (row, position): it and its predecessor are tokens of the same stretch
COUNTED = {(0, 1): 5, (0, 2): 6, (0, 7): 9, (1, 1): 2}


def row_batch(tokens: Tensor, positions: Tensor, segments: Tensor) -> RowBatch:
    """A batch without slots and without anything to score."""
    none = torch.zeros(0, dtype=torch.long)
    return RowBatch(tokens, positions, positions, segments, [], targets=none.view(0, 3), ends=none.view(0, 2))


@pytest.fixture
def packed() -> RowBatch:
    tokens, segments = torch.tensor(TOKENS), torch.tensor(SEGMENTS)
    return row_batch(tokens, torch.zeros_like(tokens), segments)


@pytest.fixture
def loss(new_backbone: Callable[..., Backbone]) -> PredecessorLoss:
    made = PredecessorLoss(new_backbone())
    with torch.no_grad():
        made.head.weight.zero_()
        made.head.weight[:10, :10] = torch.eye(10)  # the hidden state holds the logits of tokens 0 to 9
    return made


def made(loss: PredecessorLoss, hidden: Tensor) -> PredecessorLoss:
    """Pretend that the first block returned these states."""
    loss._hidden = hidden
    return loss


def test_the_loss_by_hand(loss: PredecessorLoss, packed: RowBatch) -> None:
    hidden = torch.full((2, 9, 32), 100.0)
    expected = 0.0
    for number, ((row, position), before) in enumerate(COUNTED.items()):
        hidden[row, position] = 0.0
        hidden[row, position, before] = float(number)
        expected += -math.log(math.exp(number) / (math.exp(number) + 511))
    assert float(made(loss, hidden)(packed).detach()) == pytest.approx(expected / 4, rel=1e-5)


def test_only_positions_after_a_token_of_their_stretch_have_gradient(loss: PredecessorLoss, packed: RowBatch) -> None:
    hidden = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    made(loss, hidden)(packed).backward()
    assert hidden.grad is not None
    touched = {(row, position) for row, position in hidden.grad.abs().sum(-1).nonzero().tolist()}
    assert touched == set(COUNTED)


@torch.no_grad()
def test_it_watches_the_first_block(new_backbone: Callable[..., Backbone]) -> None:
    backbone = new_backbone()
    loss = PredecessorLoss(backbone)
    tokens = torch.tensor([[5, 6, 7, 8]])
    states = backbone.model(tokens, output_hidden_states=True).hidden_states
    packed = row_batch(tokens, torch.arange(4)[None], torch.zeros_like(tokens))
    logits = loss.head(states[1][0, 1:])
    expected = torch.nn.functional.cross_entropy(logits, tokens[0, :-1])
    torch.testing.assert_close(loss(packed), expected)
