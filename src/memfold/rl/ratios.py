"""How much likelier a reply has become since it was sampled.  Left out: the clip, which belongs to the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Ratio = Callable[[Tensor, Sequence[int]], Tensor]


def of_tokens(change: Tensor, sizes: Sequence[int]) -> Tensor:
    """r_t = pi(y_t) / pi_old(y_t) for every token [n]: PPO, GRPO, DAPO.

    `change` [n] is log pi - log pi_old; `sizes` are the tokens of each conversation.
    """
    return change.exp()


def of_sequences(change: Tensor, sizes: Sequence[int]) -> Tensor:
    """s = (pi(y) / pi_old(y)) ** (1 / |y|) of the whole conversation, for each of its tokens [n].

    GSPO (arXiv 2507.18071, equation 7).  As its tokens share one value, any mean over them is that of the sequence.
    """
    means = [part.mean().expand(len(part)) for part in change.split(list(sizes)) if len(part)]
    return torch.cat(means).exp() if means else change.exp()


RATIOS: dict[str, Ratio] = {"token": of_tokens, "sequence": of_sequences}
