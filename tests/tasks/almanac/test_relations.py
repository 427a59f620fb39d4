from __future__ import annotations

import re

import pytest

from memfold.tasks import filler, names
from memfold.tasks.almanac.relations import TYPES, Relation
from memfold.tasks.almanac.world import FIRST_HELD_OUT, FIRST_KEYS, RELATIONS, relations_of

IDS = [relation.key for relation in RELATIONS]


def test_the_number_of_relations() -> None:
    ordinary = [relation for relation in RELATIONS if not relation.held_out]
    assert len(ordinary) >= 28
    assert len(RELATIONS) - len(ordinary) == 4
    assert {relation.subject for relation in ordinary} == set(TYPES)
    assert {relation.value for relation in ordinary} >= set(names.LITERALS)
    assert len(set(IDS)) == len(IDS)


@pytest.mark.parametrize("relation", RELATIONS, ids=IDS)
def test_every_template_has_its_placeholders(relation: Relation) -> None:
    statements = (*relation.statements, relation.held_out_statement)
    assert len(statements) >= 5
    assert len(relation.questions) >= 2
    assert all(text.count("{s}") == 1 and text.count("{v}") == 1 for text in statements)
    assert all(text.count("{s}") == 0 and text.count("{v}") == 1 for text in relation.pronoun_statements)
    assert all(text.count("{s}") == 1 and "{v}" not in text and text.endswith("?") for text in relation.questions)
    assert relation.is_link == bool(relation.noun_phrase)
    assert all(5 <= len(text.split()) <= 17 for text in statements)


def test_no_template_belongs_to_two_relations() -> None:
    statements = [text for relation in RELATIONS for text in (*relation.statements, relation.held_out_statement)]
    questions = [text for relation in RELATIONS for text in relation.questions]
    phrases = [relation.noun_phrase for relation in RELATIONS if relation.noun_phrase]
    for templates in (statements, questions, phrases):
        assert len(set(templates)) == len(templates)


def test_the_vocabulary_is_small() -> None:
    templates = list(filler.TEMPLATES)
    for relation in RELATIONS:
        templates += (*relation.statements, relation.held_out_statement, *relation.pronoun_statements)
        templates += (*relation.questions, relation.noun_phrase, relation.plural_clause)
    words = {word for text in templates for word in re.findall(r"[A-Za-z]+", re.sub(r"{\w+}", "", text))}
    words.update(names.GOODS, names.ANIMALS, names.COLOURS, names.MONTHS, names.TITLE_WORDS)
    assert len(words) < 600


def test_level_zero_has_eight_relations() -> None:
    first = [relation for kind in TYPES for relation in relations_of(kind, 0, False)]
    assert [relation.key for relation in first] == list(FIRST_KEYS)
    assert [relation.key for kind in TYPES for relation in relations_of(kind, 0, True)] == list(FIRST_HELD_OUT)
