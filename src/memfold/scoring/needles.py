"""Scores how much of a needle an answer contains, on the scale of published needle tests: from 1 (nothing) to 10 (all).

Published tests use a model to judge a sentence.  Here needles are values, so a deterministic rule is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from memfold.scoring.metrics import sub_span_match
from memfold.scoring.normalisation import normalise

LOWEST, HIGHEST = 1, 10
MIN_MATCH = 0.5  # the fraction of a value below which a match may be chance


def contains_all(answer: str, values: Sequence[str]) -> bool:
    """Return whether the answer contains every value as whole words."""
    return all(sub_span_match(answer, [value]) for value in values)


def needle_score(answer: str, values: Sequence[str]) -> int:
    """Return the mean over values of the longest substring that the answer contains, from 1 to 10, rounded down.

    A substring of less than half a value counts as 0.  Only a value that appears as whole words counts in full.

    >>> needle_score("It is 1234567.", ["1234567"]), needle_score("It is 1234999.", ["1234567"])
    (10, 6)
    """
    mean = sum(_match(answer, value) for value in values) / len(values)
    return LOWEST + int((HIGHEST - LOWEST) * mean + 1e-9)


def _match(answer: str, value: str) -> float:
    """Return the fraction of a value that the answer contains."""
    if sub_span_match(answer, [value]):
        return 1.0
    text, needle = normalise(answer), normalise(value)
    longest = SequenceMatcher(None, text, needle, autojunk=False).find_longest_match().size
    fraction = min(longest, len(needle) - 1) / len(needle) if needle else 0.0
    return fraction if fraction >= MIN_MATCH else 0.0
