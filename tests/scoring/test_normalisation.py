"""The form in which answers are compared, by hand, and its rules of numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfold.scoring.metrics import exact_match, sub_span_match, token_f1
from memfold.scoring.normalisation import normalise

MARKS = st.text(
    st.sampled_from("0123456789.,'-+%\u20ac$ aKxthe\u00b2\u00bd()=/\\{}\u00a0\u2013\u2212\u6771\u3002\u0663"),
    max_size=16,
)
TEXT = MARKS | st.text(max_size=30)


@pytest.mark.parametrize(
    "forms",
    [
        [
            "1234.5",
            "1,234.50",
            "1.234,5",
            "1'234.5",
            "1\u202f234.5",
            "+1234.5",
            "01234.500",
            "1\u2019234,50",
            r"1{,}234.5",
            r"1\,234.5",
        ],
        ["1234567", "1,234,567", "1.234.567", "12,34,567", "1\u00a0234\u00a0567"],
        ["-3", "\u22123", "\u20133", "(-3)", "-3.0", "\uff0d3"],
        ["0.5", ".5", "0,5", "\u0660\u066b\u0665"],
        ["3", "3.", "\u0663", "\u0969"],  # Arabic and Hindi digits
        ["5%", "5 %", "5 percent", r"5\%", "5\uff05"],
        ["\u20ac5", "5 \u20ac", "5\u20ac", "\u20ac 5", "\\text{\u20ac}5"],
        ["$1.5 million", "1.5$ million", r"\$1.5 million"],
        ["14 May 1733", "14 May, 1733", "14 May,1733"],
        ["1733-05-14", "1733/5/14", "1733.05.14"],
        ["5km", "5 km", "5-km"],
        ["KX-4071", "kx4071", "KX4071."],
        ["U.S.", "US", "the US"],
        ["O'Brien", "O\u2019Brien", "OBrien"],
        ["Jean-Paul", "Jean\u2010Paul", "jean paul"],
        ["fine", "\ufb01ne", "fi\u00adne", "\uff26\uff29\uff2e\uff25"],
        ["caf\u00e9", "cafe\u0301", "CAFE\u0301"],
        ["Stra\u00dfe", "STRASSE"],
        ["The river Sanu.", "river  sanu", r"\text{The river} \textbf{Sanu}"],
        ["1/2", r"\frac{1}{2}", "\u00bd"],
    ],
)
def test_these_are_the_same(forms: list[str]) -> None:
    assert len({normalise(form) for form in forms}) == 1
    assert normalise(forms[0])


@pytest.mark.parametrize(
    "forms",
    [
        ["3", "-3", "three", "3.3", "33"],
        ["1.234", "1,234", "1 234", "1234.1"],  # a point alone is a decimal point, a comma between thousands is not
        ["1733", "1,7 33", "1.733"],
        ["10\u00b2", "102"],
        ["2\u00bd", "21/2"],
        ["3-5", "35", "-35"],
        ["1.2.3", "123", "1.23"],
        ["5%", "5", "$5", "\u20ac5"],
        ["1990s", "1990"],
        ["12th", "12"],
        ["x=-3", "x=3"],
        ["caf\u00e9", "cafe"],
        ["1e5", "100000"],
        ["KX-4071", "KX-4072", "4071"],
        ["\u6771\u4eac", "\u4eac\u6771"],
    ],
)
def test_these_are_different(forms: list[str]) -> None:
    assert len({normalise(form) for form in forms}) == len(forms)


def test_numbers_are_words_of_a_text() -> None:
    assert sub_span_match("It weighs 1,733.0 pounds (about).", ["1733"])
    assert not sub_span_match("It fell to -3 degrees.", ["3"])
    assert not sub_span_match("It weighs 1.733 pounds.", ["1733"])
    assert sub_span_match("\u4eba\u53e3\u306f1,234\u4eba\u3067\u3059\u3002", ["1234"])
    assert sub_span_match("\u6771\u4eac\u306f\u9996\u90fd\u3067\u3059\u3002", ["\u9996\u90fd"])
    assert token_f1("1,250 coins", "1250 coins") == 1


@given(TEXT)
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(TEXT, TEXT)
def test_comparison_is_symmetric(first: str, second: str) -> None:
    assert exact_match(first, [second]) == exact_match(second, [first])
    assert exact_match(first, [first])
    assert token_f1(first, second) == token_f1(second, first)


@given(st.integers(-(10**12), 10**12), st.integers(0, 999))
def test_a_number_is_the_same_however_it_is_written(whole: int, thousandths: int) -> None:
    plain, english = f"{whole}.{thousandths:03}", f"{whole:,}.{thousandths:03}"
    swiss, german = english.replace(",", "'"), english.translate(str.maketrans(",.", ".,"))
    assert normalise(plain) == normalise(english) == normalise(swiss)
    if "." in german:  # both marks tell which is which
        assert normalise(german) == normalise(plain)
