import pytest

from memfold.scoring.string_match import found_words, string_match_all, string_match_part


@pytest.mark.parametrize(
    ("answer", "found", "whole"),
    [
        ("Velm, Sanu, Tor and 1234567", 1.0, 1.0),
        ("VELM; sanu", 0.5, 0.5),
        ("Velmar has 91234567.", 0.5, 0.0),  # inside a longer word and a longer number
        ("Sanu is in the list: Velm, Tor, Biberon, Dozo", 0.75, 0.75),  # what else is said costs nothing
        ("", 0.0, 0.0),
    ],
)
def test_the_share_of_strings_by_hand(answer: str, found: float, whole: float) -> None:
    expected = ("Velm", "Sanu", "Tor", "1234567")
    assert (string_match_all(answer, expected), found_words(answer, expected)) == (found, whole)


def test_any_of_several_accepted_answers() -> None:
    accepted = ("the river Sanu", "Sanu")
    assert [string_match_part(answer, accepted) for answer in ("By SANU.", "The river Sanutor", "San", "")] == [
        1,
        1,
        0,
        0,
    ]
