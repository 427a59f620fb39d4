"""What is done to rewards and groups before advantages are taken: length, cut-off replies, groups without a signal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from torch import Tensor

from memfold.core.types import Trace
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


def counted(trace: Trace, mask_truncated: bool) -> bool:
    """Whether the tokens of a trajectory enter the loss: not where its last reply was cut off and those are masked.

    DAPO's overlong filtering (section 3.4): an answer that was not let end is neither good nor bad.  What a system
    keeps for itself, like a note, is bounded by design; being full is no cut.
    """
    return not (mask_truncated and trace.steps[-1].reply.finish == "length")


def informative(correctness: Tensor, turns: Sequence[Sequence[float]] = (), credit: str = "trajectory") -> bool:
    """Whether dynamic sampling keeps a group [g]: 0 < right < g, for rewards in general not all equal.

    DAPO, equation 11.  It goes by the reward before length is punished (filter metric "accuracy").  Where `credit` is
    by turn, rewards of the same turn that differ teach as well.
    """
    places = zip_longest(*turns) if credit == "turn" else ()
    return varied(correctness) or any(len(set(place) - {None}) > 1 for place in places)


def dynamic(step: int, enabled: bool, warmup: int) -> bool:
    """Whether groups are dropped at a step, from 0: after `warmup` steps in which the model learns the form of a reply
    (pooled paper, appendix I.3: 25)."""
    return enabled and step >= warmup
