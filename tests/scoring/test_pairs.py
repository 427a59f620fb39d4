from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfold.scoring.pairs import discordant, mcnemar


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 5, 1.0),
        (0, 5, 2 / 32),
        (0, 6, 2 / 64),
        (1, 9, 22 / 1024),
        (3, 7, 2 * (1 + 10 + 45 + 120) / 1024),
    ],
)
def test_mcnemar_by_hand(first: int, second: int, p: float) -> None:
    assert mcnemar(first, second) == mcnemar(second, first) == pytest.approx(p)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_sums_all_splits_that_are_at_least_as_uneven(first: int, second: int) -> None:
    count, gap = first + second, abs(first - second)
    extreme = sum(comb(count, number) for number in range(count + 1) if abs(2 * number - count) >= gap)
    assert mcnemar(first, second) == pytest.approx(extreme / 2**count)


def test_thousands_of_questions_are_no_problem() -> None:
    assert mcnemar(2500, 2500) == 1
    assert 0 < mcnemar(2400, 2600) < 0.01
    assert mcnemar(0, 5000) < 1e-300


def test_discordant_by_hand() -> None:
    assert discordant([True, True, False, False, True], [True, False, True, False, False]) == (2, 1)
    assert discordant([], []) == (0, 0)
    with pytest.raises(ValueError, match="same length"):
        discordant([True], [])
