"""Changes to rewards and groups before advantages: length penalty, truncated replies, groups without a signal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from torch import Tensor

from memfold.core.system import ANSWER
from memfold.core.types import Reply, Trace
from memfold.rl.advantages import varied


def answering(trace: Trace) -> Reply:
    """Return the reply that answers the question; an empty one if the system found nothing to read for it.

    Length and truncation are those of this reply: other calls, such as updates of a note, are limited by design.
    """
    replies = [step.reply for step in trace.steps if step.call.purpose == ANSWER]
    return replies[-1] if replies else Reply()


def overlong(length: int, limit: int, buffer: int, factor: float) -> float:
    """Return the soft overlong punishment (DAPO, equation 13, times `factor` as in verl), to be added to a reward.

    0 up to `limit` - `buffer` tokens, then decreasing linearly to -`factor` at `limit`.

    >>> overlong(525, 600, 100, 0.5), overlong(550, 600, 100, 0.5), overlong(600, 600, 100, 0.5)
    (-0.125, -0.25, -0.5)
    """
    if not buffer:
        return 0.0
    beyond = length - (limit - buffer)
    return -min(max(beyond / buffer, 0.0), 1.0) * factor


def counted(trace: Trace, mask_truncated: bool) -> bool:
    """Return whether a trajectory enters the loss; it does not if its answer is truncated and those are masked.

    DAPO's overlong filtering (section 3.4): a truncated answer is neither good nor bad.
    """
    return not (mask_truncated and answering(trace).finish == "length")


def informative(correctness: Tensor, turns: Sequence[Sequence[float]] = (), credit: str = "trajectory") -> bool:
    """Return whether dynamic sampling keeps a group [g]: 0 < right < g, or in general, rewards are not all equal.

    DAPO, equation 11, on rewards before the length penalty (filter metric "accuracy").  With `credit` by turn, a group
    is also kept if rewards of the same turn differ.
    """
    by_turn = zip_longest(*turns) if credit == "turn" else ()
    return varied(correctness) or any(len(set(values) - {None}) > 1 for values in by_turn)


def dynamic(step: int, enabled: bool, warmup: int) -> bool:
    """Return whether groups are dropped at a step, counted from 0: after `warmup` steps that teach the reply format.

    The pooled paper uses 25 (appendix I.3).
    """
    return enabled and step >= warmup
