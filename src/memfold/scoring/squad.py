"""The published rule of SQuAD for comparing answers, for figures that stand beside published ones.

Texts are compared without case, ASCII punctuation and articles.  The rule drops signs, decimal points and the marks
between thousands with all other punctuation: `-1.5` equals `15`.  What is right here is decided by `metrics`.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Convert to lower case; remove ASCII punctuation, articles and extra whitespace.

    >>> normalise("  The river  Sanu. ")
    'river sanu'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, accepted: Iterable[str]) -> bool:
    """Return whether the answer equals one of the accepted strings after normalisation."""
    return any(normalise(answer) == normalise(candidate) for candidate in accepted)


def contained_either_way(answer: str, expected: str) -> bool:
    """Return whether the expected answer stands in the given one, or the given one in the expected one.

    This is the `sub_em` by which MemAgent (arXiv 2507.02259) scores RULER-HQA.  It compares characters, not words, so
    it is lenient twice over: an answer that is a piece of the expected one is right, the empty answer included, and so
    is one in which the expected one stands inside a word.

    >>> [contained_either_way(answer, "Velm Tor") for answer in ("in Velm Tor", "Tor", "", "Sanu")]
    [True, True, True, False]
    """
    given, wanted = normalise(answer), normalise(expected)
    return wanted in given or given in wanted


def token_f1(answer: str, expected: str) -> float:
    """Return the harmonic mean of precision and recall over normalised words, with repetitions counted."""
    return shared_words(normalise(answer).split(), normalise(expected).split())


def shared_words(words: list[str], expected: list[str]) -> float:
    """Return the harmonic mean of precision and recall over two lists of words."""
    if not words or not expected:
        return float(words == expected)
    shared = (Counter(words) & Counter(expected)).total()
    return 2 * shared / (len(words) + len(expected))
