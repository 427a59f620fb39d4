import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfold.scoring.needles import HIGHEST, LOWEST, contains_all, needle_score

UUID = "6fa459ea-ee8a-4ca4-94db-77db160e355e"


@pytest.mark.parametrize(
    ("answer", "values", "score"),
    [
        ("1234567", ["1234567"], 10),
        ("The secret number of Velm is 1234567.", ["1234567"], 10),
        ("1234999", ["1234567"], 6),  # four of seven in a row
        ("1239999", ["1234567"], 1),  # three of seven may be chance
        ("12345678", ["1234567"], 8),  # another number that contains this one
        ("", ["1234567"], 1),
        ("I do not know.", ["1234567"], 1),
        (UUID.upper(), [UUID], 10),
        (UUID[:-1], [UUID], 9),
        ("1234567 and 7654321", ["1234567", "7654321"], 10),
        ("1234567", ["1234567", "7654321"], 5),
    ],
)
def test_the_score_by_hand(answer: str, values: list[str], score: int) -> None:
    assert needle_score(answer, values) == score
    assert contains_all(answer, values) is (score == HIGHEST)


@given(st.text(), st.lists(st.text("abc123", min_size=1), min_size=1, max_size=3))
def test_the_score_stays_on_its_scale(answer: str, values: list[str]) -> None:
    assert LOWEST <= needle_score(answer, values) <= HIGHEST
