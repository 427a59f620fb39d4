"""Compares an answer with the accepted answers: exact match, sub-span match, token F1, and the rule for each sample.

Texts are compared in the form of `normalisation`: numbers as numbers, words without case and Unicode forms.  SQuAD's
published rule is in `squad`, model judges are in `judge`, metrics for rewritten text in `rewriting`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from memfold.core.types import Sample
from memfold.scoring.normalisation import normalise
from memfold.scoring.squad import shared_words

_BETWEEN_ITEMS = {"and"}
_MARKS = re.compile(r"[;\n\u3001\uff0c\uff1b]|,(?!\d)")  # between items; a comma before a digit belongs to a number


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
    """Return the harmonic mean of precision and recall over normalised words, with repetitions counted."""
    return shared_words(normalise(answer).split(), normalise(expected).split())


def answered(sample: Sample, answer: str) -> bool:
    """Return whether the answer to a sample's question is correct.

    An answer has to match one of the accepted answers.  A listing has to name each item once, in any order, and nothing
    else.
    """
    if sample.kind == "listing":
        return _lists(answer, sample.answers)
    return exact_match(answer, sample.answers)


def holds_answer(sample: Sample, reply: str) -> bool:
    """Return whether a reply in sentences holds an accepted answer to a sample's question, as consecutive words.

    A listing has to name each item.  Yes or no has to be the first word, as both stand in many other sentences.
    """
    if sample.kind == "listing":
        return all(sub_span_match(reply, [item]) for item in sample.answers)
    first = normalise(reply).split()[:1]
    spoken = [answer for answer in sample.answers if normalise(answer) in ("yes", "no")]
    others = [answer for answer in sample.answers if answer not in spoken]
    return any(first == [normalise(answer)] for answer in spoken) or sub_span_match(reply, others)


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
