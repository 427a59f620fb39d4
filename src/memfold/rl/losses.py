"""The parts of the policy loss: clip, mean over tokens, KL to a reference, entropy.

All of them work on the concatenated tokens [n] of many turns.  The loss is

    loss = sum_t w_t * (clip_t + beta * k3_t - gamma * H_t)

with the weights w of `MEANS`, so that the losses of micro-batches and processes sum to that of one update.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

MAX_DIFFERENCE = 10.0  # clamp on the difference of two log-probabilities, as in MemAgent's code

Mean = Callable[[Sequence[int], Sequence[int], int], list[float]]


def clipped(ratio: Tensor, advantage: Tensor, low: float, high: float, dual: float) -> Tensor:
    """Return -min(r A, clip(r, 1 - low, 1 + high) A): PPO's clip; DAPO's clip-higher where high > low (equation 8)."""
    return -(ratio * advantage).minimum(ratio.clamp(1 - low, 1 + high) * advantage)


def symmetric(ratio: Tensor, advantage: Tensor, low: float, high: float, dual: float) -> Tensor:
    """Return -min(r A, clip(r, 1 - low, 1 + low) A): PPO (section 3), GRPO."""
    return clipped(ratio, advantage, low, low, dual)


def dual_clipped(ratio: Tensor, advantage: Tensor, low: float, high: float, dual: float) -> Tensor:
    """Return `clipped`, but at most -dual A where A < 0: dual-clip PPO (arXiv 1912.09729, equation 5), MemAgent's 3."""
    loss = clipped(ratio, advantage, low, high, dual)
    return loss.minimum(-dual * advantage).where(advantage < 0, loss)


def clip_mask(loss: Tensor, ratio: Tensor, advantage: Tensor) -> Tensor:
    """Return the tokens whose `loss` was changed by a clip, that is, is not -r A: they have no gradient."""
    return loss != -(ratio * advantage)


def by_token(sizes: Sequence[int], owners: Sequence[int], length: int) -> list[float]:
    """Return w = 1 / sum |o|: every token of the update has the same weight (DAPO, equation 8; MemAgent, equation 5).

    `sizes` are the token counts of turns, `owners` their trajectories.  Returns for each turn the weight of its tokens.
    """
    total = sum(sizes)
    return [1 / total if total else 0.0] * len(sizes)


def by_sequence(sizes: Sequence[int], owners: Sequence[int], length: int) -> list[float]:
    """Return w = 1 / (C |o|): the mean over C turns of the mean over their tokens (GRPO, equation 3; GSPO)."""
    count = sum(size > 0 for size in sizes)
    return [1 / (count * size) if size else 0.0 for size in sizes]


def by_trajectory(sizes: Sequence[int], owners: Sequence[int], length: int) -> list[float]:
    """Return w = 1 / (N n_i), n_i the tokens of all turns of trajectory i: LycheeMemory (section 3.4.1)."""
    totals: dict[int, int] = {}
    for owner, size in zip(owners, sizes, strict=True):
        totals[owner] = totals.get(owner, 0) + size
    count = sum(total > 0 for total in totals.values())
    return [1 / (count * totals[owner]) if totals[owner] else 0.0 for owner in owners]


def by_length(sizes: Sequence[int], owners: Sequence[int], length: int) -> list[float]:
    """Return w = 1 / (C L) with the maximum reply length L, so that the turn's length does not matter (Dr. GRPO)."""
    count = sum(size > 0 for size in sizes)
    return [1 / (count * length) if count else 0.0] * len(sizes)


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Return exp(d) - d - 1 with d = log pi_ref - log pi: an unbiased, non-negative estimate of KL(pi || pi_ref).

    Schulman's third estimator; GRPO, equation 4.
    """
    difference = (reference - logprobs).clamp(-MAX_DIFFERENCE, MAX_DIFFERENCE)
    return difference.exp() - difference - 1


def k1(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Return log pi - log pi_ref, whose sum is subtracted from the reward with kl = "reward" (InstructGPT)."""
    return logprobs - reference


def entropy(logits: Tensor) -> Tensor:
    """Return h = -sum_v p_v log p_v of each token [n], from its logits [n, v]."""
    table = logits.float().log_softmax(-1)
    return -(table.exp() * table).sum(-1)


CLIPS = {"symmetric": symmetric, "higher": clipped, "dual": dual_clipped}
MEANS: dict[str, Mean] = {
    "token": by_token,
    "sequence": by_sequence,
    "trajectory": by_trajectory,
    "fixed": by_length,
}
