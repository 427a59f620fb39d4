"""How much of a needle an answer gives back, on the scale of published needle tests: 10 for all of it, 1 for nothing.

There a model is the judge of a sentence.  Here needles are values, so a rule does it, the same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from memfold.scoring.metrics import normalise, sub_span_match

LOWEST, HIGHEST = 1, 10
PART = 0.5  # less of a value than this in a row may be chance


def found(answer: str, values: Sequence[str]) -> bool:
    """Whether every value stands in the answer, each as whole words."""
    return all(sub_span_match(answer, [value]) for value in values)


def needle_score(answer: str, values: Sequence[str]) -> int:
    """From 1 to 10, rounded down: the mean over values of the longest stretch of each that stands in the answer.

    A stretch of less than half a value counts as nothing; only a value that stands there as whole words counts whole.

    >>> needle_score("It is 1234567.", ["1234567"]), needle_score("It is 1234999.", ["1234567"])
    (10, 6)
    """
    share = sum(_share(answer, value) for value in values) / len(values)
    return LOWEST + int((HIGHEST - LOWEST) * share + 1e-9)


def _share(answer: str, value: str) -> float:
    if sub_span_match(answer, [value]):
        return 1.0
    text, wanted = normalise(answer), normalise(value)
    longest = SequenceMatcher(None, text, wanted, autojunk=False).find_longest_match().size
    part = min(longest, len(wanted) - 1) / len(wanted) if wanted else 0.0
    return part if part >= PART else 0.0
