"""Group-relative advantages of trajectories, and how they are assigned to turns.

A group holds the trajectories of one question.  Advantages are estimated over trajectories, then assigned to turns, so
a trajectory with many turns counts once.  There is no learned critic.  How much the tokens of a turn count is decided
by the means of `losses`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-6  # added to the standard deviation, as in verl

Estimate = Callable[["Tensor"], "Tensor"]
Credit = Callable[["Tensor", Sequence[Sequence[float]], Estimate], "list[Tensor]"]


def standardised(rewards: Tensor) -> Tensor:
    """Return a_i = (R_i - mean(R)) / (std(R) + eps) for a group [g]: GRPO (DeepSeekMath, section 4.1.2).

    The standard deviation is the sample one (divisor g - 1); equal rewards give exactly 0.

    >>> standardised(torch.tensor([1.0, 0.0, 0.0, 0.0])).tolist()
    [1.4999970197677612, -0.4999989867210388, -0.4999989867210388, -0.4999989867210388]
    """
    if not varied(rewards):
        return rewards.new_zeros(rewards.shape)
    return (rewards - rewards.mean()) / (rewards.std() + EPSILON)


def centred(rewards: Tensor) -> Tensor:
    """Return a_i = R_i - mean(R) for a group [g]: Dr. GRPO (section 3.2), and MemAgent's equation 4.

    >>> centred(torch.tensor([1.0, 0.0, 0.0, 0.0])).tolist()
    [0.75, -0.25, -0.25, -0.25]
    """
    return rewards - rewards.mean() if varied(rewards) else rewards.new_zeros(rewards.shape)


def varied(rewards: Tensor) -> bool:
    """Return whether the rewards of a group differ at all; if not, there is nothing to learn from it."""
    return bool((rewards != rewards[0]).any())


def per_trajectory(rewards: Tensor, turns: Sequence[Sequence[float]], estimate: Estimate) -> list[Tensor]:
    """Return a_{i,j} = A_i for every turn j of trajectory i: MemAgent's equation 4.

    `turns` [g] holds the turn rewards of each trajectory, of which only the count is used.
    """
    return [value.repeat(len(values)) for value, values in zip(estimate(rewards), turns, strict=True)]


def last_turn(rewards: Tensor, turns: Sequence[Sequence[float]], estimate: Estimate) -> list[Tensor]:
    """Return a_{i,j} = A_i for the last turn of trajectory i, and 0 for the turns before it.

    The reward stays with the reply that earned it, as where an engine trains separate conversations and rewards one.
    The other turns still count in the mean over tokens, and a KL in the loss still applies to them.
    """
    shared = per_trajectory(rewards, turns, estimate)
    for part in shared:
        part[:-1] = 0.0
    return shared


def divided(rewards: Tensor, turns: Sequence[Sequence[float]], estimate: Estimate) -> list[Tensor]:
    """Return a_{i,j} = A_i / n_i for each of the n_i turns of trajectory i.

    The advantages of a trajectory's turns add up to A_i, so that one with many turns has no more influence.
    """
    return [part / max(len(part), 1) for part in per_trajectory(rewards, turns, estimate)]


def per_turn(rewards: Tensor, turns: Sequence[Sequence[float]], estimate: Estimate) -> list[Tensor]:
    """Return a_{i,j} = A_i + B_{i,j}, where B_{.,j} is the same estimate over the turn rewards of all j-th turns.

    MT-GRPO (arXiv 2505.11821, section 3) with weight 1.  A turn gets A_i alone if no other trajectory has a j-th turn
    to compare with, or if all turn rewards are 0.
    """
    shared = per_trajectory(rewards, turns, estimate)
    by_turn = [part.new_zeros(part.shape) for part in shared]
    for number in range(max(map(len, turns), default=0)):
        members = [index for index, values in enumerate(turns) if number < len(values)]
        if len(members) < 2:
            continue
        advantages = estimate(rewards.new_tensor([turns[index][number] for index in members]))
        for index, value in zip(members, advantages, strict=True):
            by_turn[index][number] = value
    return [trajectory + turn for trajectory, turn in zip(shared, by_turn, strict=True)]


ESTIMATES: dict[str, Estimate] = {"grpo": standardised, "mean": centred}
CREDITS: dict[str, Credit] = {
    "trajectory": per_trajectory,
    "last": last_turn,
    "divided": divided,
    "turn": per_turn,
}
