from __future__ import annotations

import math

import pytest
import torch

from memfold.rl.advantages import CREDITS, ESTIMATES, centred, per_trajectory, per_turn, standardised, varied

REWARDS = torch.tensor([1.0, 0.0, 0.0, 0.5])


def test_grpo_by_hand() -> None:
    # mean 0.375; squares 0.390625, 0.140625 twice, 0.015625: sum 0.6875, over 3 is 0.2291667, root 0.4787136
    root = math.sqrt(0.6875 / 3)
    expected = [0.625 / root, -0.375 / root, -0.375 / root, 0.125 / root]
    assert standardised(REWARDS).tolist() == pytest.approx(expected, abs=1e-5)


def test_mean_only_by_hand() -> None:
    assert centred(REWARDS).tolist() == [0.625, -0.375, -0.375, 0.125]


@pytest.mark.parametrize("name", ESTIMATES)
@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_equal_rewards_give_exactly_nothing(name: str, value: float) -> None:
    assert ESTIMATES[name](torch.tensor([value] * 7)).tolist() == [0.0] * 7
    assert not varied(torch.tensor([value] * 7))


def test_every_turn_of_a_trajectory_has_its_advantage() -> None:
    """Three trajectories of 1, 3 and 2 turns: the mean is over three rewards, not over six."""
    found = per_trajectory(torch.tensor([3.0, 0.0, 0.0]), [[0.0], [0.0] * 3, [0.0] * 2], centred)
    assert [part.tolist() for part in found] == [[2.0], [-1.0, -1.0, -1.0], [-1.0, -1.0]]


@pytest.mark.parametrize(
    ("credit", "expected"),
    [
        ("trajectory", [[2.0], [-1.0] * 3, [-1.0] * 2]),
        ("last", [[2.0], [0.0, 0.0, -1.0], [0.0, -1.0]]),
        ("divided", [[2.0], [-1 / 3] * 3, [-0.5] * 2]),
    ],
)
def test_the_reward_of_several_conversations_by_hand(credit: str, expected: list[list[float]]) -> None:
    """Three trajectories of 1, 3 and 2 conversations with rewards 3, 0, 0."""
    found = CREDITS[credit](torch.tensor([3.0, 0.0, 0.0]), [[0.0], [0.0] * 3, [0.0] * 2], centred)
    assert [part.tolist() for part in found] == [pytest.approx(part) for part in expected]


@pytest.mark.parametrize("credit", CREDITS)
def test_a_trajectory_without_turns_gets_none(credit: str) -> None:
    found = CREDITS[credit](torch.tensor([1.0, 0.0]), [[], [0.0]], centred)
    assert [len(part) for part in found] == [0, 1]


def test_a_turn_adds_its_advantage_among_the_same_turns() -> None:
    turns = [[1.0, 0.0], [0.0, 4.0, 9.0], [0.5]]
    found = per_turn(torch.tensor([1.0, 0.0, 0.5]), turns, centred)
    # outcomes: 0.5, -0.5, 0; first turns: the same; second ones (0 and 4): -2 and 2; the third is alone
    assert [part.tolist() for part in found] == [[1.0, -1.5], [-1.0, 1.5, -0.5], [0.0]]


def test_turns_without_reward_leave_the_outcome() -> None:
    turns = [[0.0, 0.0], [0.0], [0.0, 0.0]]
    for estimate in ESTIMATES.values():
        found = (CREDITS[name](torch.tensor([1.0, 0.0, 0.0]), turns, estimate) for name in ("trajectory", "turn"))
        whole, split = found
        assert [part.tolist() for part in whole] == [part.tolist() for part in split]
