import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfold.core.document import Document
from memfold.core.types import Sample
from memfold.scoring.metrics import (
    answered,
    exact_match,
    holds_answer,
    sub_span_match,
    token_f1,
    verbatim_match,
)
from memfold.scoring.normalisation import normalise


def sample_of(*answers: str, kind: str = "one-hop") -> Sample:
    return Sample("almanac", Document("d", text="t"), "Who?", answers, kind=kind)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  River Sanu.", "river sanu"),
        ("an apple a day", "apple day"),
        ("KX-4071", "kx4071"),
        ("Theta", "theta"),
        ("  ", ""),
        ("'Tis the \n end!", "tis end"),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


@given(st.text())
def test_normalising_twice_changes_only_what_punctuation_had_hidden(text: str) -> None:
    words = normalise(text).split()
    assert not {"a", "an", "the"} & set(words)
    assert normalise(text) == " ".join(words)


def test_exact_match() -> None:
    assert exact_match("the river Sanu", ["Velm", "river Sanu."])
    assert not exact_match("Sanu", ["river Sanu"])
    assert not exact_match("", ["Velm"])
    assert not exact_match("Velm", [])


@pytest.mark.parametrize(
    ("answer", "accepted", "verbatim", "normalised", "sub_span"),
    [
        ("Velm", ["Tor", "Velm"], True, True, True),
        (" Velm\n", ["Velm"], True, True, True),
        ("velm", ["Velm"], False, True, True),
        ("The river Sanu.", ["river Sanu"], False, True, True),
        ("It lies in Velm, by the sea.", ["Velm"], False, False, True),
        ("Velmor", ["Velm"], False, False, False),
        ("", ["Velm"], False, False, False),
        ("Velm", [], False, False, False),
    ],
)
def test_three_rules_from_strict_to_lenient(
    answer: str, accepted: list[str], verbatim: bool, normalised: bool, sub_span: bool
) -> None:
    assert verbatim_match(answer, accepted) is verbatim
    assert exact_match(answer, accepted) is normalised
    assert sub_span_match(answer, accepted) is sub_span


def test_an_empty_answer_does_not_match_one_that_is_empty_after_normalisation() -> None:
    assert not exact_match("", ["The"])
    assert exact_match("the", ["The"])


def test_sub_span_match_needs_consecutive_whole_words() -> None:
    assert sub_span_match("He was born in Velm Tor, in 1733.", ["Velm Tor"])
    assert not sub_span_match("He was born in Velm, near Tor.", ["Velm Tor"])
    assert not sub_span_match("It weighs 1733 pounds.", ["73"])
    assert not sub_span_match("anything", ["the"])


def test_token_f1_by_hand() -> None:
    assert token_f1("Ada of Velm", "Ada Velm Tor") == pytest.approx(2 * 2 / 6)
    assert token_f1("Velm", "Velm") == 1
    assert token_f1("velm velm", "velm") == pytest.approx(2 / 3)
    assert token_f1("", "Velm") == 0
    assert token_f1("the", "") == 1


@given(st.text(), st.text())
def test_token_f1_is_symmetric_and_within_bounds(first: str, second: str) -> None:
    assert token_f1(first, second) == token_f1(second, first)
    assert 0 <= token_f1(first, second) <= 1


def test_any_accepted_answer_is_correct() -> None:
    sample = sample_of("the guild of Velm", "Velm")
    assert answered(sample, "velm")
    assert answered(sample, "The guild of Velm.")
    assert not answered(sample, "guild Velm")


@pytest.mark.parametrize(
    ("answer", "correct"),
    [
        ("Ada Bo, The Song of Velm and Velm", True),
        ("Velm; Ada Bo & the song of velm", True),
        ("Velm\nThe Song of Velm\nAda Bo", True),
        ("Ada Bo and Velm", False),
        ("Ada Bo, The Song of Velm and The Song of Velm", False),
        ("Ada Bo, The Song of Velm, Velm and Tor", False),
        ("Ada Bo, Ada Bo, The Song of Velm and Velm", False),
        ("", False),
    ],
)
def test_a_listing_needs_every_item_once_and_nothing_else(answer: str, correct: bool) -> None:
    assert answered(sample_of("Velm", "The Song of Velm", "Ada Bo", kind="listing"), answer) is correct


def test_items_of_a_listing_may_be_numbers() -> None:
    sample = sample_of("1,250", "3", "Salt & Co", kind="listing")
    assert answered(sample, "3, 1250, Salt & Co")
    assert answered(sample, "1,250; 3 and Salt & Co.")
    assert not answered(sample, "1, 250, 3, Salt & Co")
    assert not answered(sample, "1250, -3, Salt & Co")


@given(st.permutations(["Velm", "Tor Sanu", "Ada Bo", "The Road of Kel"]))
def test_the_order_of_a_listing_does_not_matter(items: list[str]) -> None:
    sample = sample_of("Ada Bo", "The Road of Kel", "Tor Sanu", "Velm", kind="listing")
    assert answered(sample, f"{', '.join(items[:-1])} and {items[-1]}")
    assert not answered(sample, ", ".join(items[1:]))


@pytest.mark.parametrize(
    ("reply", "answers", "kind", "held"),
    [
        ("Ada was born in Velm, by the sea.", ("Tor", "velm"), "", True),
        ("Ada was born in Velmar.", ("Velm",), "", False),
        ("Tor, and also Velm.", ("Velm", "Tor"), "listing", True),
        ("Only Tor.", ("Velm", "Tor"), "listing", False),
        ("Yes, it does.", ("yes",), "", True),
        ("It has no mill.", ("no",), "", False),
        ("", ("Velm",), "", False),
        ("The", ("the",), "", False),
    ],
)
def test_a_reply_in_sentences_holds_an_answer(reply: str, answers: tuple[str, ...], kind: str, held: bool) -> None:
    assert holds_answer(Sample("t", Document("d"), "?", answers, kind=kind), reply) == held
