"""The published rule of RULER: the share of the expected strings that stand in an answer.

Strings are compared as characters without case, so one that stands inside a longer word or number counts, and so does
an answer that holds much else.  `found_words` is the same share with whole words.
"""

from __future__ import annotations

from collections.abc import Sequence

from memfold.scoring.metrics import sub_span_match


def string_match_all(answer: str, expected: Sequence[str]) -> float:
    """Return the share of the expected strings that the answer contains.

    >>> string_match_all("Velm, and 1234567.", ["velm", "34", "Tor", "sanu"])
    0.5
    """
    return sum(text.lower() in answer.lower() for text in expected) / len(expected)


def string_match_part(answer: str, expected: Sequence[str]) -> float:
    """Return 1 if the answer contains any of the expected strings, else 0.

    >>> string_match_part("In Velm.", ["the town of Velm", "Velm"])
    1.0
    """
    return float(any(text.lower() in answer.lower() for text in expected))


def found_words(answer: str, expected: Sequence[str]) -> float:
    """Return the share of the expected strings that the answer contains as whole words, after normalisation.

    >>> found_words("Velm, and 1234567.", ["velm", "34", "Tor", "sanu"])
    0.25
    """
    return sum(sub_span_match(answer, [text]) for text in expected) / len(expected)
