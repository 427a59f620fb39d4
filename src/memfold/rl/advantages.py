"""How much better a trajectory is than the others of its group, and what each of its conversations gets of that.

A group holds the trajectories of one question.  Its advantage is taken over trajectories, before it is spread: one with
many conversations counts once.  Left out: learned critics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

EPSILON = 1e-6  # beside a standard deviation, as in verl

Estimate = Callable[[Tensor], Tensor]
Credit = Callable[[Tensor, Sequence[Sequence[float]], Estimate], list[Tensor]]


def standardised(rewards: Tensor) -> Tensor:
    """A_i = (R_i - mean(R)) / (std(R) + eps) for a group [g]: GRPO (DeepSeekMath, section 4.1.2).

    The standard deviation is that of a sample (divided by g - 1); equal rewards give exactly 0.

    >>> standardised(torch.tensor([1.0, 0.0, 0.0, 0.0])).tolist()
    [1.4999970197677612, -0.4999989867210388, -0.4999989867210388, -0.4999989867210388]
    """
    if not varied(rewards):
        return torch.zeros_like(rewards)
    return (rewards - rewards.mean()) / (rewards.std() + EPSILON)


def centred(rewards: Tensor) -> Tensor:
    """A_i = R_i - mean(R) for a group [g]: Dr. GRPO (section 3.2), and MemAgent's equation 4.

    >>> centred(torch.tensor([1.0, 0.0, 0.0, 0.0])).tolist()
    [0.75, -0.25, -0.25, -0.25]
    """
    return rewards - rewards.mean() if varied(rewards) else torch.zeros_like(rewards)


def varied(rewards: Tensor) -> bool:
    """Whether the rewards of a group differ at all: without that there is nothing to learn from it."""
    return bool((rewards != rewards[0]).any())


def per_trajectory(rewards: Tensor, turns: Sequence[Sequence[float]], estimate: Estimate) -> list[Tensor]:
    """A_{i,j} = A_i for every conversation j of trajectory i: MemAgent's equation 4.

    `turns` [g] holds a number for each conversation, of which only the count is used; returns as many advantages.
    """
    return [value.expand(len(own)) for value, own in zip(estimate(rewards), turns, strict=True)]


def per_turn(rewards: Tensor, turns: Sequence[Sequence[float]], estimate: Estimate) -> list[Tensor]:
    """A_{i,j} = A_i + B_{i,j}, where B_{.,j} is the same estimate over the turn rewards of all j-th conversations.

    MT-GRPO (arXiv 2505.11821, section 3) with weight 1.  A conversation that no other trajectory has a j-th one to
    compare with, and one without reward of its own (all 0), gets A_i alone.
    """
    shared = per_trajectory(rewards, turns, estimate)
    own = [torch.zeros_like(part) for part in shared]
    for number in range(max(map(len, turns), default=0)):
        having = [index for index, values in enumerate(turns) if number < len(values)]
        if len(having) < 2:
            continue
        found = estimate(rewards.new_tensor([turns[index][number] for index in having]))
        for index, value in zip(having, found, strict=True):
            own[index][number] = value
    return [one + other for one, other in zip(shared, own, strict=True)]


ESTIMATES: dict[str, Estimate] = {"grpo": standardised, "mean": centred}
CREDITS: dict[str, Credit] = {"trajectory": per_trajectory, "turn": per_turn}
