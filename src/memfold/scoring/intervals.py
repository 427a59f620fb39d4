"""95 % intervals for the figures of a report: Wilson for proportions, the bootstrap for means and paired ratios.

Samples are taken to be independent: several questions about one document are less than that, and their intervals are
too narrow.
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
MOST_INDICES = 1 << 20

Interval = tuple[float, float]


def wilson(right: int, count: int) -> Interval:
    """The Wilson score interval of the proportion `right` / `count`; all of [0, 1] when nothing was counted.

    >>> tuple(round(bound, 4) for bound in wilson(8, 10))
    (0.4902, 0.9433)
    """
    if count == 0:
        return 0.0, 1.0
    share, square = right / count, Z_95 * Z_95
    middle = share + square / (2 * count)
    reach = Z_95 * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    whole = 1 + square / count
    return max(0.0, (middle - reach) / whole), min(1.0, (middle + reach) / whole)


def difference_interval(right: int, count: int, other_right: int, other_count: int) -> Interval:
    """Newcombe's interval of the difference of two proportions about different samples, from their Wilson intervals.

    >>> tuple(round(bound, 4) for bound in difference_interval(56, 70, 48, 80))
    (0.0524, 0.3339)
    """
    low, high = wilson(right, count)
    other_low, other_high = wilson(other_right, other_count)
    share, other = (right / count if count else 0.5), (other_right / other_count if other_count else 0.5)
    below = math.hypot(share - low, other_high - other)
    above = math.hypot(high - share, other - other_low)
    return max(-1.0, share - other - below), min(1.0, share - other + above)


def mean_interval(values: Sequence[float], seed: int = SEED, draws: int = DRAWS) -> Interval:
    """The percentile bootstrap interval of a mean; the same seed gives the same interval.

    Raises:
        ValueError: without values.
    """
    if not values:
        raise ValueError("an interval needs one value or more")
    array = np.asarray(values, dtype=float)[None]
    low, high = np.percentile(_sums(array, seed, draws)[0] / len(values), TAILS)
    return float(low), float(high)


def ratio_interval(
    values: Sequence[float], baseline: Sequence[float], seed: int = SEED, draws: int = DRAWS
) -> Interval | None:
    """The percentile bootstrap interval of mean(`values`) / mean(`baseline`), both about the same samples in order.

    Samples are drawn in pairs, so that what makes a sample hard for both sides cancels.  Draws in which the baseline is
    nothing are left out; None when that is all of them.

    Raises:
        ValueError: for sides of different length, or empty ones.
    """
    if len(values) != len(baseline) or not values:
        raise ValueError(f"a paired ratio needs two sides of the same length, not {len(values)} and {len(baseline)}")
    above, below = _sums(np.array([values, baseline], dtype=float), seed, draws)
    if not below.any():
        return None
    low, high = np.percentile(above[below > 0] / below[below > 0], TAILS)
    return float(low), float(high)


def _sums(sides: NDArray[np.float64], seed: int, draws: int) -> NDArray[np.float64]:
    """Sums [sides, draws] over resampled columns of `sides` [sides, n], a bounded number of draws at a time."""
    rng, count = np.random.default_rng(seed), sides.shape[1]
    step = max(1, MOST_INDICES // count)
    parts = [
        sides[:, rng.integers(count, size=(min(step, draws - start), count))].sum(2) for start in range(0, draws, step)
    ]
    return np.concatenate(parts, axis=1)
