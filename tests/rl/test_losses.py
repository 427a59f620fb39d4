from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from memfold.rl.losses import CLIPS, MEANS, clip_mask, clipped, dual_clipped, entropy, k1, k3, symmetric

RATIO = torch.tensor([1.5, 1.25, 0.5, 0.9, 5.0])
BETTER, WORSE = torch.full((5,), 2.0), torch.full((5,), -2.0)


def test_symmetric_clip_by_hand() -> None:
    # positive advantage: at most 1.2 x 2; negative: at least 0.8 x 2, unbounded above
    assert symmetric(RATIO, BETTER, 0.2, 0.28, 3.0).tolist() == pytest.approx([-2.4, -2.4, -1.0, -1.8, -2.4])
    assert symmetric(RATIO, WORSE, 0.2, 0.28, 3.0).tolist() == pytest.approx([3.0, 2.5, 1.6, 1.8, 10.0])


def test_clip_higher_by_hand() -> None:
    assert clipped(RATIO, BETTER, 0.2, 0.28, 3.0).tolist() == pytest.approx([-2.56, -2.5, -1.0, -1.8, -2.56])
    assert clipped(RATIO, WORSE, 0.2, 0.28, 3.0).tolist() == pytest.approx([3.0, 2.5, 1.6, 1.8, 10.0])


def test_dual_clip_by_hand() -> None:
    assert dual_clipped(RATIO, BETTER, 0.2, 0.28, 3.0).tolist() == pytest.approx([-2.56, -2.5, -1.0, -1.8, -2.56])
    assert dual_clipped(RATIO, WORSE, 0.2, 0.28, 3.0).tolist() == pytest.approx([3.0, 2.5, 1.6, 1.8, 6.0])


@pytest.mark.parametrize("name", CLIPS)
def test_a_clipped_token_has_no_gradient(name: str) -> None:
    for advantage in (BETTER, WORSE):
        ratio = RATIO.clone().requires_grad_()
        loss = CLIPS[name](ratio, advantage, 0.2, 0.28, 3.0)
        loss.sum().backward()
        assert ratio.grad is not None
        assert (ratio.grad == 0).tolist() == clip_mask(loss.detach(), RATIO, advantage).tolist()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("token", [1 / 10] * 3),
        ("sequence", [1 / 6, 1 / 15, 1 / 9]),
        ("trajectory", [1 / 4, 1 / 16, 1 / 16]),
        ("fixed", [1 / 60] * 3),
    ],
)
def test_weights_of_two_trajectories_by_hand(name: str, expected: Sequence[float]) -> None:
    """A trajectory of one turn of 2 tokens, one of two turns of 5 and 3; replies have at most 20."""
    assert MEANS[name]((2, 5, 3), (0, 1, 1), 20) == pytest.approx(expected)


@pytest.mark.parametrize("name", MEANS)
def test_empty_turns_change_no_weight(name: str) -> None:
    weights = MEANS[name]((2, 0, 3), (0, 1, 2), 20)
    alone = MEANS[name]((2, 3), (0, 2), 20)
    assert [weights[0], weights[2]] == alone
    assert MEANS[name]((0, 0), (0, 1), 20) == [0.0, 0.0]


def test_k3_by_hand() -> None:
    logprobs, reference = torch.tensor([-1.0, -2.0, -30.0]), torch.tensor([-1.0, -1.0, -1.0])
    assert k3(logprobs, reference).tolist() == pytest.approx([0.0, math.e - 2, math.exp(10) - 11])
    assert k1(logprobs, reference).tolist() == [0.0, -1.0, -29.0]


def test_k3_estimates_the_kl_of_two_distributions() -> None:
    policy, reference = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.5, 0.25, 0.25])
    exact = (policy * (policy / reference).log()).sum()
    assert float((policy * k3(policy.log(), reference.log())).sum()) == pytest.approx(float(exact), abs=1e-6)


def test_entropy_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [50.0, 0.0, 0.0, 0.0], [math.log(3.0), 0.0, -99.0, -99.0]])
    expected = [math.log(4), 0.0, -0.75 * math.log(0.75) - 0.25 * math.log(0.25)]
    assert entropy(logits).tolist() == pytest.approx(expected, abs=1e-5)
