"""Parses almanac documents sentence by sentence and answers their questions independently of the generator."""

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
    _pattern(relation.key, template, NAME[relation.subject], NAME[relation.value])
    for relation in RELATIONS
    for template in (*relation.statements, relation.held_out_statement, *relation.pronoun_statements)
]
QUESTIONS = [_pattern(relation.key, template, ".+") for relation in RELATIONS for template in relation.questions]
PHRASES = [
    _pattern(relation.key, relation.noun_phrase, NAME[relation.subject])
    for relation in RELATIONS
    if relation.noun_phrase
]
SUBJECT = {relation.key: relation.subject for relation in RELATIONS}
VALUE = {relation.key: relation.value for relation in RELATIONS}


def capitalised(name: str) -> str:
    return name[0].upper() + name[1:]


def parse(text: str) -> dict[tuple[str, str], str]:
    """(relation, subject) -> value, from the text alone."""
    facts: dict[tuple[str, str], str] = {}
    subject = ""
    for sentence in re.split(r"(?<=\.)\s", text):
        for pattern in STATEMENTS:
            match = pattern.regex.fullmatch(sentence)
            if match:
                parts = match.groupdict()
                subject = capitalised(parts["s"]) if "s" in parts else subject
                facts[pattern.relation, subject] = parts["v"]
    return facts


def solve(question: str, facts: dict[tuple[str, str], str]) -> Iterator[str]:
    """All answers to a question of one or two hops that follow from the facts."""
    for pattern in QUESTIONS:
        match = pattern.regex.fullmatch(question) or pattern.regex.fullmatch(question[0].lower() + question[1:])
        if not match:
            continue
        subject = match["s"]
        if (pattern.relation, capitalised(subject)) in facts:
            yield facts[pattern.relation, capitalised(subject)]
        for phrase in PHRASES:
            inner = phrase.regex.fullmatch(subject)
            if inner and VALUE[phrase.relation] == SUBJECT[pattern.relation]:
                middle = facts.get((phrase.relation, capitalised(inner["s"])))
                value = middle and facts.get((pattern.relation, capitalised(middle)))
                if value:
                    yield value


def samples_of(encode: Encode, kinds: tuple[str, ...], split: str) -> list[Sample]:
    options = TaskOptions(level=3, samples=8, kinds=kinds, split=split)
    return [sample for seed in range(12) for sample in almanac(seed, 400, options, encode)]


def test_each_question_has_one_answer_in_the_text(encode: Encode) -> None:
    kinds = ("one-hop", "two-hop")
    samples = samples_of(encode, kinds, "in") + samples_of(encode, kinds, "out")
    assert len(samples) > 150
    for sample in samples:
        assert sample.document.text is not None
        answers = solve(sample.question, parse(sample.document.text))
        assert {capitalised(answer) for answer in answers} == {capitalised(sample.answers[0])}


def test_listings_name_all_items_in_reading_order(encode: Encode) -> None:
    patterns = {
        relation.key: re.compile("Which " + relation.plural_clause.format(v="(.+)") + r"\?")
        for relation in RELATIONS
        if relation.plural_clause
    }
    samples = samples_of(encode, ("listing",), "in")
    assert len(samples) > 10
    for sample in samples:
        assert sample.document.text is not None
        facts = parse(sample.document.text)
        matches = ((key, pattern.fullmatch(sample.question)) for key, pattern in patterns.items())
        key, target = next((key, capitalised(match[1])) for key, match in matches if match)
        items = [name for (relation, name), value in facts.items() if (relation, capitalised(value)) == (key, target)]
        assert [capitalised(answer) for answer in sample.answers] == items
