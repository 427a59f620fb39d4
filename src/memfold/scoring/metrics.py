"""Compares an answer with the accepted answers: exact match, sub-span match, token F1, and the rule for each sample.

Normalisation follows SQuAD, so that results are comparable with published ones.  Model judges are in `judge`, metrics
for rewritten text in `rewriting`.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable

from memfold.core.types import Sample

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_BETWEEN_ITEMS = {"and", "&"}
_MARKS = re.compile(r"[,;\n]")


def normalise(text: str) -> str:
    """Convert to lower case; remove ASCII punctuation, articles and extra whitespace.

    >>> normalise("  The river  Sanu. ")
    'river sanu'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def verbatim_match(answer: str, accepted: Iterable[str]) -> bool:
    """Return whether the answer equals one of the accepted strings, apart from surrounding whitespace."""
    return any(answer.strip() == candidate.strip() for candidate in accepted)


def stands_verbatim(text: str, value: str) -> bool:
    """Return whether a text contains a value character for character, and not as part of a longer word or code.

    >>> stands_verbatim("It is KX-4071.", "KX-4071"), stands_verbatim("It is KX-40715.", "KX-4071")
    (True, False)
    """
    return re.search(rf"(?<![\w-]){re.escape(value)}(?![\w-])", text) is not None


def exact_match(answer: str, accepted: Iterable[str]) -> bool:
    """Return whether the answer equals one of the accepted strings after normalisation.

    A string that is empty after normalisation ("The") is compared unnormalised, so that an empty answer never matches.
    """
    return any(_key(answer) == _key(candidate) for candidate in accepted)


def sub_span_match(text: str, accepted: Iterable[str]) -> bool:
    """Return whether the text contains one of the accepted strings as consecutive words, after normalisation."""
    words = f" {normalise(text)} "
    return any(bool(key := normalise(candidate)) and f" {key} " in words for candidate in accepted)


def token_f1(answer: str, expected: str) -> float:
    """Return SQuAD's F1: the harmonic mean of precision and recall over normalised words, with repetitions counted."""
    words, expected_words = normalise(answer).split(), normalise(expected).split()
    if not words or not expected_words:
        return float(words == expected_words)
    shared = (Counter(words) & Counter(expected_words)).total()
    return 2 * shared / (len(words) + len(expected_words))


def answered(sample: Sample, answer: str) -> bool:
    """Return whether the answer to a sample's question is correct.

    An answer has to match one of the accepted answers.  A listing has to name each item once, in any order, and nothing
    else.
    """
    if sample.kind == "listing":
        return _lists(answer, sample.answers)
    return exact_match(answer, sample.answers)


def _key(text: str) -> str:
    return normalise(text) or text.strip().lower()


def _lists(answer: str, items: tuple[str, ...]) -> bool:
    """Remove every item from the answer, the longest first; only words that join items may remain."""
    rest = f" {normalise(_MARKS.sub(' and ', answer))} "
    for item in sorted(map(normalise, items), key=len, reverse=True):
        if f" {item} " not in rest:
            return False
        rest = rest.replace(f" {item} ", " and ", 1)
    return set(rest.split()) <= _BETWEEN_ITEMS
