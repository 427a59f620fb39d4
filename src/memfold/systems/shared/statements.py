"""Decides whether the text of a memory states an answer where it was recalled from.

A small model that finds no answer recalls something near: a sentence about another name, or another sentence about the
right one.  Such an answer is often somewhere in the text, so it is not enough to look it up.  Here, the sentences that
it was recalled from must agree with the text in their names and speak of a name of the question, and the answer must
have the form that the question asks for.  What is a name, and what is asked for, is told for English only (`mentions`);
in other languages the words alone decide.
"""

from __future__ import annotations

from collections.abc import Sequence

import regex

from memfold.core.types import Memory, Recall
from memfold.core.words import words
from memfold.systems.shared.citations import SentenceIndex, sentence_index
from memfold.systems.shared.mentions import is_english, is_mentioned, names_of, word_set

COUNTED = 2  # digits of a number that may have been counted
REACH = 3  # sentences before a pronoun in which its name may be
PRONOUNS = word_set("it its he his him she her hers they their them this that these those")
MONTHS = word_set("""
    january february march april may june july august september october november december
""")
NUMBERS = word_set("""
    no none zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million dozen
    once twice half single pair several many few both
""")
# what a question asks for -> words of an answer without digits
_FORMS = (
    (regex.compile(r"\bhow many\b", regex.IGNORECASE), NUMBERS),
    (regex.compile(r"\b(which|what) (year|day|date)\b", regex.IGNORECASE), MONTHS | NUMBERS),
)
_ITEMS = regex.compile(r",\s|;|\band\b")  # between the items of an answer


def states(memory: Memory, question: str, recalls: Sequence[Recall], answer: str) -> bool | None:
    """Return whether the text states an answer where it was recalled from; None if that cannot be said.

    If the text contains every recalled sentence, the answer rests on the text, whatever its words, as long as the
    sentences have its names and numbers.  Otherwise each item of the answer must be in a recalled sentence that the
    text contains, or in the sentence of the text nearest to one that it does not contain, if both speak of the same
    names.  A short number cannot be looked up, because it may have been counted; nor can yes and no.
    """
    if not recalls or answer.casefold().strip(" .") in ("yes", "no"):
        return None
    english, index = is_english(question), sentence_index(memory)
    if english and not _has_form(question, answer):
        return False
    recalled = " ".join(recall.text for recall in recalls)
    context = f"{question} {recalled}"
    rests = [recall for recall in recalls if recall.supported or not english or _speak_of_same(recall, context, index)]
    if english and not _speak_of(question, rests, index):
        return False
    if all(recall.supported for recall in recalls):
        named = names_of(answer, whole=True) if english else []
        return all(_has(recalled, name) for name in named)
    if answer.isdecimal() and len(answer) <= COUNTED:
        return False
    lines = [_spaced(recall.text if recall.supported else _nearest(recall)) for recall in rests]
    items = [_spaced(item) for item in _ITEMS.split(answer) if words(item)]
    return bool(items) and all(any(item in line for line in lines) for item in items)


def _has_form(question: str, answer: str) -> bool:
    """Return whether an answer has a number, if the question asks for one."""
    if any(character.isdigit() for character in answer):
        return True
    return not any(asks.search(question) and not allowed & set(words(answer)) for asks, allowed in _FORMS)


def _speak_of_same(recall: Recall, context: str, index: SentenceIndex) -> bool:
    """Return whether the text, in the sentence nearest to a recalled one, speaks of the same names.

    It may use a pronoun for a name that is in one of the sentences before.  It may not introduce a name that is neither
    in the question nor in what was recalled (`context`).
    """
    near = _nearest(recall)
    missing = [name for name in names_of(recall.text) if not _has(near, name)]
    if missing:
        before = _before_pronoun(recall, index)
        if not all(_has(before, name) for name in missing):
            return False
    return all(_has(context, name) for name in names_of(near))


def _speak_of(question: str, recalls: Sequence[Recall], index: SentenceIndex) -> bool:
    """Return whether recalled sentences speak of a name of the question, if it has one that the text mentions."""
    names = [name for name in names_of(question) if is_mentioned(index, name)]
    found = " ".join(f"{_nearest(recall)} {_before_pronoun(recall, index)}" for recall in recalls)
    return not names or any(_has(found, name) for name in names)


def _before_pronoun(recall: Recall, index: SentenceIndex) -> str:
    """Return the sentences before the nearest one to a recalled sentence, if that has a pronoun."""
    if recall.nearest is None or PRONOUNS.isdisjoint(words(recall.nearest.text)):
        return ""
    return index.before(recall.nearest, REACH)


def _nearest(recall: Recall) -> str:
    return recall.nearest.text if recall.nearest is not None else ""


def _has(text: str, name: str) -> bool:
    return _spaced(name) in _spaced(text)


def _spaced(text: str) -> str:
    return f" {' '.join(words(text))} "
