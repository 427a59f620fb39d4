"""Reads almanac documents back, sentence by sentence, and answers their questions independently of the generator."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from memfold.core.types import Sample
from memfold.tasks.almanac.task import almanac
from memfold.tasks.almanac.world import RELATIONS
from memfold.tasks.task import Encode, TaskOptions

WORD = r"[A-Z][a-z]+(?:-[A-Z][a-z]+)?"
NAME = {
    "person": rf"{WORD}(?: {WORD}){{1,2}}",
    "town": rf"{WORD}(?: {WORD})?",
    "river": rf"[Tt]he river {WORD}(?: {WORD})?",
    "ship": rf"[Tt]he ship {WORD}(?: {WORD})?",
    "guild": rf"[Tt]he guild of {WORD}(?: {WORD})?",
    "book": rf"The {WORD} of {WORD}(?: {WORD})?",
    "year": r"\d{4}",
    "number": r"\d{2,5}",
    "date": r"\d+ [A-Z][a-z]+ \d{4}",
    "code": r"[A-Z]{2}-\d{4}",
    "emblem": r"[a-z]+ [a-z]+",
    "goods": r"[a-z]+",
}
PRONOUN = {"He": "(?:He|She|It)", "he": "(?:he|she|it)", "him": "(?:him|her|it)", "his": "(?:his|her|its)"}
PRONOUN["His"] = "(?:His|Her|Its)"


@dataclass(frozen=True)
class Pattern:
    relation: str
    regex: re.Pattern[str]


def _pattern(relation: str, template: str, subject: str, value: str = "") -> Pattern:
    text = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
    text = text.format(s=f"(?P<s>{subject})", v=f"(?P<v>{value})", **PRONOUN)
    return Pattern(relation, re.compile(text))


STATEMENTS = [
    _pattern(one.key, template, NAME[one.subject], NAME[one.value])
    for one in RELATIONS
    for template in (*one.says, one.unseen, *one.pronoun)
]
QUESTIONS = [_pattern(one.key, ask, ".+") for one in RELATIONS for ask in one.asks]
PHRASES = [_pattern(one.key, one.phrase, NAME[one.subject]) for one in RELATIONS if one.phrase]
SUBJECT = {one.key: one.subject for one in RELATIONS}
VALUE = {one.key: one.value for one in RELATIONS}
PAIR = {f"the {word} of ": one for one in RELATIONS if one.compare for word in one.compare}


def plain(name: str) -> str:
    return name[0].upper() + name[1:]


def read(text: str) -> dict[tuple[str, str], str]:
    """(relation, subject) -> value, from the text alone."""
    found: dict[tuple[str, str], str] = {}
    last = ""
    for sentence in re.split(r"(?<=\.)\s", text):
        for pattern in STATEMENTS:
            match = pattern.regex.fullmatch(sentence)
            if match:
                parts = match.groupdict()
                last = plain(parts["s"]) if "s" in parts else last
                found[pattern.relation, last] = parts["v"]
    return found


def solve(question: str, facts: dict[tuple[str, str], str]) -> Iterator[str]:
    """All answers that the facts give to a question of one or two hops."""
    for pattern in QUESTIONS:
        match = pattern.regex.fullmatch(question) or pattern.regex.fullmatch(question[0].lower() + question[1:])
        if not match:
            continue
        subject = match["s"]
        if (pattern.relation, plain(subject)) in facts:
            yield facts[pattern.relation, plain(subject)]
        for phrase in PHRASES:
            inner = phrase.regex.fullmatch(subject)
            if inner and VALUE[phrase.relation] == SUBJECT[pattern.relation]:
                middle = facts.get((phrase.relation, plain(inner["s"])))
                value = middle and facts.get((pattern.relation, plain(middle)))
                if value:
                    yield value


def asked(encode: Encode, kinds: tuple[str, ...], split: str) -> list[Sample]:
    options = TaskOptions(level=3, samples=8, kinds=kinds, split=split)
    return [sample for seed in range(12) for sample in almanac(seed, 400, options, encode)]


def test_each_question_has_one_answer_in_the_text(encode: Encode) -> None:
    samples = asked(encode, ("one-hop", "two-hop"), "in") + asked(encode, ("one-hop", "two-hop"), "out")
    assert len(samples) > 150
    for sample in samples:
        assert sample.document.text is not None
        facts = read(sample.document.text)
        assert {plain(answer) for answer in solve(sample.question, facts)} == {plain(sample.answers[0])}


def test_listings_name_all_of_them_in_reading_order(encode: Encode) -> None:
    many = {one.key: re.compile("Which " + one.many.format(v="(.+)") + r"\?") for one in RELATIONS if one.many}
    samples = asked(encode, ("listing",), "in")
    assert len(samples) > 10
    for sample in samples:
        assert sample.document.text is not None
        facts = read(sample.document.text)
        key, match = next((key, match) for key, regex in many.items() if (match := regex.fullmatch(sample.question)))
        found = [
            name for (relation, name), value in facts.items() if relation == key and plain(value) == plain(match[1])
        ]
        assert [plain(answer) for answer in sample.answers] == found
