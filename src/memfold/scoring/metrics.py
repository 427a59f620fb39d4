"""Compares an answer with the accepted ones: exact match, sub-span match, token F1, and whether a sample is answered.

Normalisation is SQuAD's, so that figures compare with published ones.  Left out: judges that are models (`judge`), and
scores of rewritten text (`rewriting`).
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
    """Lower case, without ASCII punctuation, articles and surplus space.

    >>> normalise("  The river  Sanu. ")
    'river sanu'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def verbatim_match(answer: str, accepted: Iterable[str]) -> bool:
    """Whether the answer is one of the accepted strings, character for character but for the space around it."""
    return any(answer.strip() == one.strip() for one in accepted)


def stands_verbatim(text: str, value: str) -> bool:
    """Whether a value stands in a text character for character, and not as a part of something longer.

    >>> stands_verbatim("It is KX-4071.", "KX-4071"), stands_verbatim("It is KX-40715.", "KX-4071")
    (True, False)
    """
    return re.search(rf"(?<![\w-]){re.escape(value)}(?![\w-])", text) is not None


def exact_match(answer: str, accepted: Iterable[str]) -> bool:
    """Whether the answer equals one of the accepted strings once both are normalised.

    A string of which normalisation leaves nothing ("The") is compared as it is, so that silence never matches it.
    """
    return any(_key(answer) == _key(one) for one in accepted)


def sub_span_match(text: str, accepted: Iterable[str]) -> bool:
    """Whether the words of one of the accepted strings stand next to each other in the text."""
    words = f" {normalise(text)} "
    return any(bool(key := normalise(one)) and f" {key} " in words for one in accepted)


def token_f1(answer: str, expected: str) -> float:
    """Harmonic mean of precision and recall over normalised words, counted with their repeats: SQuAD's F1."""
    got, wanted = normalise(answer).split(), normalise(expected).split()
    if not got or not wanted:
        return float(got == wanted)
    shared = (Counter(got) & Counter(wanted)).total()
    return 2 * shared / (len(got) + len(wanted))


def answered(sample: Sample, answer: str) -> bool:
    """Whether an answer to a question is right.

    Any accepted answer will do; a listing wants each of its items once, in any order, and nothing more.
    """
    if sample.kind == "listing":
        return _lists(answer, sample.answers)
    return exact_match(answer, sample.answers)


def _key(text: str) -> str:
    return normalise(text) or text.strip().lower()


def _lists(answer: str, items: tuple[str, ...]) -> bool:
    """Take every item out of the answer, the longest first; only words that join items may be left."""
    rest = f" {normalise(_MARKS.sub(' and ', answer))} "
    for item in sorted(map(normalise, items), key=len, reverse=True):
        if f" {item} " not in rest:
            return False
        rest = rest.replace(f" {item} ", " and ", 1)
    return set(rest.split()) <= _BETWEEN_ITEMS
