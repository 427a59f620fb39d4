"""SQuAD's published rule, by hand: it drops what the rule of this project keeps."""

from __future__ import annotations

import pytest

from memfold.scoring import metrics, squad


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  River Sanu.", "river sanu"),
        ("an apple a day", "apple day"),
        ("KX-4071", "kx4071"),
        ("Theta", "theta"),
        ("  ", ""),
        ("'Tis the \n end!", "tis end"),
        ("-1,234.50", "123450"),
        ("caf\u00e9 \u2013 \u201cVelm\u201d", "caf\u00e9 \u2013 \u201cvelm\u201d"),  # only ASCII punctuation
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert squad.normalise(text) == expected


@pytest.mark.parametrize(
    ("answer", "expected", "published", "ours"),
    [
        ("3", "-3", True, False),
        ("15", "1.5", True, False),
        ("1234", "1,234", True, True),
        ("1234.5", "1,234.50", False, True),
        ("$5", "5", True, False),
        ("well-known", "well known", False, True),
        ("\ufb01ne", "fine", False, True),
        ("The river Sanu", "river sanu.", True, True),
        ("Sanu", "river Sanu", False, False),
    ],
)
def test_the_two_rules(answer: str, expected: str, published: bool, ours: bool) -> None:
    assert squad.exact_match(answer, [expected]) is published
    assert metrics.exact_match(answer, [expected]) is ours


def test_token_f1_by_hand() -> None:
    assert squad.token_f1("Ada of Velm", "Ada Velm Tor") == pytest.approx(2 * 2 / 6)
    assert squad.token_f1("-1.5 coins", "15 coins") == 1
    assert squad.token_f1("", "Velm") == 0
    assert squad.token_f1("the", "") == 1


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("the river Sanu", True),
        ("It is the River Sanu, of course.", True),
        ("Sanu", True),  # a piece of the expected answer
        ("", True),  # and so is nothing
        ("a.", True),  # which an article is too
        ("iver S", True),  # inside of words
        ("river Sanuma", True),
        ("river Sano", False),
        ("Sanu river", False),
    ],
)
def test_containment_in_either_direction(answer: str, right: bool) -> None:
    assert squad.contained_either_way(answer, "The river Sanu") == right
