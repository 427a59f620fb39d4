"""What is done to rewards and groups before advantages are taken: length, cut-off replies, groups without a signal."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from memfold.core.types import Reply
from memfold.rl.advantages import varied


def overlong(length: int, most: int, buffer: int, factor: float) -> float:
    """Soft overlong punishment (DAPO, equation 13, times `factor` as in verl), to be added to a reward.

    0 up to `most` - `buffer` tokens, then falling evenly to -`factor` at `most`.

    >>> overlong(500, 600, 100, 0.5), overlong(550, 600, 100, 0.5), overlong(600, 600, 100, 0.5)
    (0.0, -0.25, -0.5)
    """
    if not buffer:
        return 0.0
    beyond = length - (most - buffer)
    return -min(max(beyond / buffer, 0.0), 1.0) * factor


def counted(reply: Reply, mask_truncated: bool) -> bool:
    """Whether the tokens of a reply enter the loss: not where it was cut off and those are masked.

    DAPO's overlong filtering (section 3.4): a reply that was not let end is neither good nor bad.
    """
    return not (mask_truncated and reply.finish == "length")


def informative(correctness: Tensor, turns: Sequence[Sequence[float]] = (), credit: str = "trajectory") -> bool:
    """Whether dynamic sampling keeps a group [g]: 0 < right < g, for rewards in general not all equal.

    DAPO, equation 11.  It goes by the reward before length is punished (filter metric "accuracy").  Where `credit` is
    by turn, rewards of `turns` that differ teach as well.
    """
    return varied(correctness) or (credit == "turn" and len({tuple(own) for own in turns}) > 1)


def dynamic(step: int, enabled: bool, warmup: int) -> bool:
    """Whether groups are dropped at a step, from 0: after `warmup` steps in which the model learns the form of a reply
    (pooled paper, appendix I.3: 25)."""
    return enabled and step >= warmup
