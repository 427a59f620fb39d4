"""Words in the form in which they are compared."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfold.core.words import caseless, terms, visible, words

FORMS = [
    ("fine", "\ufb01ne"),  # a ligature
    ("Velmor", "Vel\u00admor"),  # a soft hyphen
    ("Velmor", "Vel\u200bmor\ufeff"),  # characters without width
    ("KX41", "\uff2b\uff38\uff14\uff11"),  # full width
    ("caf\u00e9", "cafe\u0301"),  # composed and not
    ("\u30ac\u30e9\u30b9", "\uff76\uff9e\uff97\uff7d"),  # half width
    ("\u0644\u0627", "\ufefb"),  # an Arabic presentation form
]


@pytest.mark.parametrize(("plain", "form"), FORMS)
def test_unicode_forms_are_one(plain: str, form: str) -> None:
    assert visible(plain) == visible(form)
    assert words(plain) == words(form)
    assert terms(plain) == terms(form) != []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The KX-41, and Ada's", ["the", "kx", "41", "and", "ada", "s"]),
        (
            "\u0939\u093f\u0928\u094d\u0926\u0940 \u092e\u0947\u0902",
            ["\u0939\u093f\u0928\u094d\u0926\u0940", "\u092e\u0947\u0902"],
        ),  # marks belong to words
        ("\u6771\u4eac\u30bf\u30ef\u30fc\u3002", ["\u6771", "\u4eac", "\u30bf", "\u30ef", "\u30fc"]),
        ("\u0e2a\u0e27\u0e31\u0e2a", ["\u0e2a", "\u0e27\u0e31", "\u0e2a"]),  # a vowel sign stays with its letter
        ("", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ada in \u6771\u4eac\u90fd, \u6c34 2", ["ada", "in", "\u6771\u4eac", "\u4eac\u90fd", "\u6c34", "2"]),
        ("tokyo\u6771\u4eac\u306fok", ["tokyo", "\u6771\u4eac", "\u4eac\u306f", "ok"]),
        ("\uc11c\uc6b8\uc740", ["\uc11c\uc6b8", "\uc6b8\uc740"]),
        ("...", []),
    ],
)
def test_terms_are_words_and_pairs_of_characters(text: str, expected: list[str]) -> None:
    assert terms(text) == expected


@given(st.text())
def test_forms_are_stable(text: str) -> None:
    assert visible(visible(text)) == visible(text)
    assert caseless(caseless(text)) == caseless(text)
    assert words(" ".join(words(text))) == words(text)


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_needs_no_special_way(text: str) -> None:
    assert terms(text) == words(text) == words(f"{text} \u00e9")[:-1]
