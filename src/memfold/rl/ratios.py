"""Importance ratios: how much more likely a reply has become since it was sampled.  Clipping is in `losses`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Ratio = Callable[["Tensor", Sequence[int]], "Tensor"]


def of_tokens(log_ratio: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return r_t = pi(y_t) / pi_old(y_t) for every token [n]: PPO, GRPO, DAPO.

    `log_ratio` [n] is log pi - log pi_old; `sizes` are the token counts of turns.
    """
    return log_ratio.exp()


def of_sequences(log_ratio: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return s = (pi(y) / pi_old(y)) ** (1 / |y|) of the whole turn, for each of its tokens [n].

    GSPO (arXiv 2507.18071, equation 7).  All tokens of a turn have the same ratio.
    """
    import torch

    means = [part.mean().expand(len(part)) for part in log_ratio.split(list(sizes)) if len(part)]
    return torch.cat(means).exp() if means else log_ratio.exp()


RATIOS: dict[str, Ratio] = {"token": of_tokens, "sequence": of_sequences}
