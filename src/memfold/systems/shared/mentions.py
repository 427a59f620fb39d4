"""Finds names and numbers of a question, or of an answer, that the text of a memory does not mention.

A question about a name that the text never mentions has no answer in it, which can be told without a model.  Only names
and numbers are looked up: other words of a question may have a synonym in the text.  What is a name is told by its
capital letter, so this works for English and stays silent for other languages: German capitalises every noun, many
languages inflect names, and others have no capitals.  It also stays silent for questions in capitals only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from memfold.core.types import Memory
from memfold.systems.shared.citations import SentenceIndex, sentence_index


def word_set(text: str) -> frozenset[str]:
    """Return the words of a list."""
    return frozenset(text.split())


TITLES = word_set("mr mrs ms miss dr prof st sir lady lord jr sr")
VERBS = word_set("is was are were has had did does do can could will would")  # that follow a subject
JOINING = word_set("a an the of and or in on at to for from with by")  # inside a name, or between names
# words that are no names even where they have a capital letter
FUNCTION_WORDS = VERBS | word_set("""
    a an the this that these those there here i he she it we you they him her his its our your their my me us them who
    whom whose what which where when why how and or but nor not if so as at by for from in into of off on onto out over
    to under up upon with without about after before between during through than then because while until since am be
    been being have having shall should may might must all any both each either every everybody everyone everything few
    many more most much neither no nobody none nothing one only other others several some somebody someone something
    such same own too very yes also just still even ever never unknown let today tomorrow yesterday
""")
ENGLISH = word_set("""
    the of is are was were who whom whose what which where when why how did does has have had from with that this about
    and many much than been there it its he his she her they their any tell describe list name give explain
""")
GERMAN = word_set("""
    der die das den dem des ein eine einen einem einer und ist sind war waren wer wen wem wessen wo wohin woher wann wie
    warum was welche welcher welches welchen hat hatte haben wurde wurden von vom zu zum zur im am bei mit nach nicht
""")
WORD = re.compile(r"\d+(?:[.,]\d+)+|\w+(?:[-'\u2019.]\w+)*")
_SENTENCE_START = re.compile(r"(?:^|[.!?:])\s*[\"'\u201c\u2018(]*$")
_POSSESSIVE = re.compile(r"['\u2019]s$")
_SEPARATORS = re.compile(r"[.,]")
_ENDINGS = ("s", "es", "n", "an", "ian", "i", "ish", "ese")  # Velms, Roman, Tarnian


def unmentioned(memory: Memory, question: str, answer: str = "") -> tuple[str, ...]:
    """Return the names and numbers of a question, and then those of its answer, that the text does not mention.

    Nothing is returned if the memory holds no text, or if the question is not in English.
    """
    if not memory.holds_text or not is_english(question):
        return ()
    index = sentence_index(memory)
    names = [*names_of(question), *names_of(answer, whole=True)]
    return tuple(dict.fromkeys(name for name in names if not is_mentioned(index, name)))


def mentions_none(memory: Memory, question: str) -> bool:
    """Return whether a question has names or numbers, and the text mentions none of them."""
    if not memory.holds_text or not is_english(question):
        return False
    names = names_of(question)
    return bool(names) and not any(is_mentioned(sentence_index(memory), name) for name in names)


def is_english(question: str) -> bool:
    """Return whether a question has English function words, and more of them than German ones, in mixed case."""
    words = [word.casefold() for word in WORD.findall(question)]
    english, german = (sum(word in listed for word in words) for listed in (ENGLISH, GERMAN))
    return english > german and question != question.upper()


def names_of(text: str, whole: bool = False) -> list[str]:
    """Return the names and numbers of a text; with `whole`, a text of names alone begins with one.

    Elsewhere the first word of a sentence has a capital letter anyway.  It is a name if it has a possessive ending, or
    if a verb such as `was` follows.
    """
    matches = list(WORD.finditer(text))
    words = [match[0] for match in matches]
    if _is_headline(words[1:]):
        return []
    only_names = whole and all(map(_may_be_in_name, words))
    found: list[str] = []
    for match, before, after in zip(matches, ["", *words], [*words[1:], ""], strict=False):
        word = _POSSESSIVE.sub("", match[0])
        starts = _SENTENCE_START.search(text[: match.start()]) is not None and before.casefold() not in TITLES
        if _is_number(word) or (_is_name(word) and (not starts or only_names or word != match[0] or after in VERBS)):
            found += _parts(word)
    return found


def _is_headline(words: list[str]) -> bool:
    """Return whether every longer word has a capital letter, so that capitals tell nothing."""
    longer = [word for word in words if len(word) > 3 and not word[0].isdigit()]
    return len(longer) > 3 and all(word[0].isupper() for word in longer)


def _is_name(word: str) -> bool:
    """Return whether a word is written like a name: with a capital letter, and two letters only if one is small."""
    if word.casefold() in FUNCTION_WORDS | TITLES or not any(character.isupper() for character in word):
        return False
    return len(word) > 2 or (len(word) == 2 and word[1].islower())


def is_name_alone(answer: str) -> bool:
    """Return whether an answer is a name, a number, a date or a list of them, and nothing else."""
    words = WORD.findall(answer)
    names = [word for word in words if word not in JOINING]
    free = any(word.casefold() in FUNCTION_WORDS - JOINING for word in words)
    return bool(names) and not free and all(map(_may_be_in_name, words))


def _may_be_in_name(word: str) -> bool:
    return word[0].isupper() or word[0].isdigit() or word in JOINING


def _is_number(word: str) -> bool:
    """Return whether a word is a number or a code; a short number may have been counted."""
    return sum(character.isdigit() for character in word) > 2


def _parts(word: str) -> Iterator[str]:
    """Yield a name with a hyphen as it is if all of its parts have a capital letter, else those that have one."""
    parts = word.split("-")
    if _is_number(word) or all(part[:1].isupper() for part in parts):
        yield word
    else:
        yield from filter(_is_name, parts)


def is_mentioned(index: SentenceIndex, name: str) -> bool:
    """Return whether a text has a name, in this or an inflected form, or a number, with or without separators."""
    if _is_number(name):
        digits = _SEPARATORS.sub("", name)
        forms = [name, digits, f"{int(digits):,}"] if digits.isdecimal() else [name]
    else:
        stems = [name.removesuffix(ending) for ending in _ENDINGS if len(name) > len(ending) + 2]
        forms = [name, *stems, *(name + ending for ending in _ENDINGS)]
    return any(map(index.mentions, forms))
