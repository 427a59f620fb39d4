"""95 % confidence intervals for reports: Wilson intervals for proportions, the bootstrap for means and paired ratios.

Samples are assumed to be independent.  Several questions about one document are not, so their intervals are too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054
DRAWS = 2000
SEED = 0
TAILS = (2.5, 97.5)
MAX_INDICES = 1 << 20  # drawn at a time, to bound the memory use

Interval = tuple[float, float]


def wilson(successes: float, count: int) -> Interval:
    """Return the Wilson score interval of the proportion `successes` / `count`; [0, 1] if `count` is 0.

    `successes` may be the sum of values between 0 and 1.  These vary less than successes and failures with the same
    mean, so the interval of their mean is then wider than it has to be.

    >>> tuple(round(bound, 4) for bound in wilson(8, 10))
    (0.4902, 0.9433)
    """
    if count == 0:
        return 0.0, 1.0
    proportion, square = successes / count, Z_95 * Z_95
    center = proportion + square / (2 * count)
    half_width = Z_95 * math.sqrt(proportion * (1 - proportion) / count + square / (4 * count * count))
    scale = 1 + square / count
    return max(0.0, (center - half_width) / scale), min(1.0, (center + half_width) / scale)


def difference_interval(successes: int, count: int, other_successes: int, other_count: int) -> Interval:
    """Return Newcombe's interval of the difference of two proportions of different samples.

    >>> tuple(round(bound, 4) for bound in difference_interval(56, 70, 48, 80))
    (0.0524, 0.3339)
    """
    low, high = wilson(successes, count)
    other_low, other_high = wilson(other_successes, other_count)
    proportion = successes / count if count else 0.5
    other = other_successes / other_count if other_count else 0.5
    below = math.hypot(proportion - low, other_high - other)
    above = math.hypot(high - proportion, other - other_low)
    return max(-1.0, proportion - other - below), min(1.0, proportion - other + above)


def average_interval(values: Sequence[float], intervals: Sequence[Interval]) -> Interval:
    """Return the interval of the average of figures of different samples, from the interval of each.

    The distances to the bounds are squared and added, as in Newcombe's interval of a difference (Zou and Donner,
    Statistics in Medicine 27, 2008).

    Raises:
        ValueError: if there are no values, or the lists differ in length.

    >>> low, high = average_interval([0.5, 1.0], [(0.2, 0.9), (0.6, 1.0)])
    >>> round(low, 4), round(high, 4)  # 0.75 - hypot(0.3, 0.4) / 2, and 0.75 + hypot(0.4, 0) / 2
    (0.5, 0.95)
    """
    if not values:
        raise ValueError("an average needs at least one value")
    parts = list(zip(values, intervals, strict=True))
    center = sum(values) / len(values)
    below = math.hypot(*(value - low for value, (low, _) in parts)) / len(values)
    above = math.hypot(*(high - value for value, (_, high) in parts)) / len(values)
    return center - below, center + above


def mean_interval(values: Sequence[float], seed: int = SEED, draws: int = DRAWS) -> Interval:
    """Return the percentile bootstrap interval of a mean; the same seed gives the same interval.

    Raises:
        ValueError: if there are no values.
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    array = np.asarray(values, dtype=float)[None]
    low, high = np.percentile(_sums(array, seed, draws)[0] / len(values), TAILS)
    return float(low), float(high)


def ratio_interval(
    values: Sequence[float], baseline: Sequence[float], seed: int = SEED, draws: int = DRAWS
) -> Interval | None:
    """Return the percentile bootstrap interval of mean(`values`) / mean(`baseline`) over the same samples.

    Samples are drawn in pairs, so that the difficulty that both sides share cancels.  Draws whose baseline is 0 are
    ignored; None if all of them are.

    Raises:
        ValueError: if the lists are empty or differ in length.
    """
    if len(values) != len(baseline) or not values:
        raise ValueError(f"a paired ratio needs two lists of the same length, not {len(values)} and {len(baseline)}")
    sums, baselines = _sums(np.array([values, baseline], dtype=float), seed, draws)
    if not baselines.any():
        return None
    low, high = np.percentile(sums[baselines > 0] / baselines[baselines > 0], TAILS)
    return float(low), float(high)


def _sums(rows: NDArray[np.float64], seed: int, draws: int) -> NDArray[np.float64]:
    """Return sums [rows, draws] over resampled columns of `rows` [rows, n], a bounded number of draws at a time."""
    rng, count = np.random.default_rng(seed), rows.shape[1]
    step = max(1, MAX_INDICES // count)
    parts = [
        rows[:, rng.integers(count, size=(min(step, draws - start), count))].sum(2) for start in range(0, draws, step)
    ]
    return np.concatenate(parts, axis=1)
