import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfold.scoring.intervals import average_interval, difference_interval, mean_interval, ratio_interval, wilson


@pytest.mark.parametrize(
    ("successes", "count", "interval"),
    [
        (5, 10, (0.2366, 0.7634)),
        (0, 10, (0.0, 0.2775)),
        (10, 10, (0.7225, 1.0)),
        (950, 1000, (0.9347, 0.9619)),
        (0, 0, (0.0, 1.0)),
    ],
)
def test_wilson_by_hand(successes: int, count: int, interval: tuple[float, float]) -> None:
    assert wilson(successes, count) == pytest.approx(interval, abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_wilson_contains_the_proportion_and_is_symmetric(pair: tuple[int, int]) -> None:
    successes, count = pair
    low, high = wilson(successes, count)
    assert 0 <= low <= successes / count + 1e-9
    assert successes / count - 1e-9 <= high <= 1
    assert wilson(count - successes, count) == pytest.approx((1 - high, 1 - low))


def test_wilson_has_its_nominal_coverage() -> None:
    rng, covered = random.Random(0), 0
    for _ in range(1000):
        low, high = wilson(sum(rng.random() < 0.9 for _ in range(100)), 100)
        covered += low <= 0.9 <= high
    assert covered / 1000 == pytest.approx(0.95, abs=0.025)


def test_the_interval_of_an_average_by_hand() -> None:
    assert average_interval([0.5, 1.0], [(0.2, 0.9), (0.6, 1.0)]) == pytest.approx((0.75 - 0.25, 0.75 + 0.2))
    assert average_interval([0.4], [(0.1, 0.8)]) == pytest.approx((0.1, 0.8))
    with pytest.raises(ValueError, match="at least one value"):
        average_interval([], [])


def test_the_interval_of_an_average_has_its_nominal_coverage() -> None:
    rng, covered, shares = random.Random(0), 0, [0.95, 0.6, 0.2]
    for _ in range(1000):
        hits = [sum(rng.random() < share for _ in range(40)) for share in shares]
        low, high = average_interval([hit / 40 for hit in hits], [wilson(hit, 40) for hit in hits])
        covered += low <= sum(shares) / 3 <= high
    assert covered / 1000 == pytest.approx(0.95, abs=0.025)


def test_the_wilson_interval_of_partial_successes_is_wide_enough() -> None:
    rng, covered = random.Random(0), 0
    for _ in range(1000):  # shares of four strings, each found with probability 0.8
        low, high = wilson(sum(sum(rng.random() < 0.8 for _ in range(4)) / 4 for _ in range(30)), 30)
        covered += low <= 0.8 <= high
    assert covered / 1000 > 0.95


def test_mean_interval_by_hand() -> None:
    assert mean_interval([3.0, 3.0, 3.0]) == (3.0, 3.0)
    assert mean_interval([0.0, 1.0]) == (0.0, 1.0)  # of two values a quarter of the draws is (0, 0), another (1, 1)
    assert mean_interval([5.0]) == (5.0, 5.0)
    with pytest.raises(ValueError, match="at least one value"):
        mean_interval([])


def test_mean_interval_is_close_to_the_normal_one_and_deterministic() -> None:
    values = [float(number % 2) for number in range(400)]
    low, high = mean_interval(values)
    assert (low, high) == pytest.approx((0.5 - 0.049, 0.5 + 0.049), abs=0.006)
    assert mean_interval(values) == (low, high)
    uneven = [random.Random(number).random() for number in range(50)]
    assert mean_interval(uneven, seed=1) != mean_interval(uneven)


def test_ratio_interval_uses_paired_samples() -> None:
    baseline = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0] * 20
    assert ratio_interval(baseline, baseline) == (1.0, 1.0)
    assert ratio_interval([value / 2 for value in baseline], baseline) == (0.5, 0.5)
    shuffled = baseline[1:] + baseline[:1]
    low, high = ratio_interval(shuffled, baseline) or (1.0, 1.0)
    assert low < 1 < high


def test_ratio_interval_without_a_baseline() -> None:
    assert ratio_interval([1.0, 0.0], [0.0, 0.0]) is None
    with pytest.raises(ValueError, match="same length"):
        ratio_interval([1.0], [1.0, 0.0])


@pytest.mark.parametrize(
    ("counts", "interval"),
    [
        ((56, 70, 48, 80), (0.0524, 0.3339)),  # Newcombe 1998, method 10
        ((9, 10, 3, 10), (0.1705, 0.8090)),
        ((10, 10, 0, 10), (0.6075, 1.0)),
    ],
)
def test_difference_interval_as_published(counts: tuple[int, int, int, int], interval: tuple[float, float]) -> None:
    assert difference_interval(*counts) == pytest.approx(interval, abs=5e-4)
    low, high = difference_interval(*counts[2:], *counts[:2])
    assert (-high, -low) == pytest.approx(interval, abs=5e-4)


def test_a_difference_without_samples_is_unknown() -> None:
    low, high = difference_interval(0, 0, 5, 10)
    assert low < 0 < high
