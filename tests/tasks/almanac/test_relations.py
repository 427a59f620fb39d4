from __future__ import annotations

import re

import pytest

from memfold.tasks import filler, names
from memfold.tasks.almanac.relations import TYPES, Relation
from memfold.tasks.almanac.world import FIRST_HELD_OUT, FIRST_KEYS, RELATIONS, relations_of

IDS = [relation.key for relation in RELATIONS]


def test_the_table_is_as_rich_as_promised() -> None:
    ordinary = [relation for relation in RELATIONS if not relation.held_out]
    assert len(ordinary) >= 28
    assert len(RELATIONS) - len(ordinary) == 4
    assert {relation.subject for relation in ordinary} == set(TYPES)
    assert {relation.value for relation in ordinary} >= set(names.LITERALS)
    assert len(set(IDS)) == len(IDS)


@pytest.mark.parametrize("relation", RELATIONS, ids=IDS)
def test_every_wording_names_what_it_must(relation: Relation) -> None:
    statements = (*relation.says, relation.unseen)
    assert len(statements) >= 5
    assert len(relation.asks) >= 2
    assert all(text.count("{s}") == 1 and text.count("{v}") == 1 for text in statements)
    assert all(text.count("{s}") == 0 and text.count("{v}") == 1 for text in relation.pronoun)
    assert all(text.count("{s}") == 1 and "{v}" not in text and text.endswith("?") for text in relation.asks)
    assert relation.links == bool(relation.phrase)
    assert all(5 <= len(text.split()) <= 17 for text in statements)


def test_no_wording_belongs_to_two_relations() -> None:
    statements = [text for relation in RELATIONS for text in (*relation.says, relation.unseen)]
    questions = [text for relation in RELATIONS for text in relation.asks]
    phrases = [relation.phrase for relation in RELATIONS if relation.phrase]
    for wordings in (statements, questions, phrases):
        assert len(set(wordings)) == len(wordings)


def test_the_vocabulary_is_small() -> None:
    found: set[str] = set()
    for relation in RELATIONS:
        texts = (*relation.says, relation.unseen, *relation.pronoun, *relation.asks, relation.phrase, relation.many)
        found.update(word for text in texts for word in re.findall(r"[A-Za-z]+", re.sub(r"{\w+}", "", text)))
    for text in filler.FRAMES:
        found.update(re.findall(r"[A-Za-z]+", re.sub(r"{\w+}", "", text)))
    found.update(names.GOODS, names.ANIMALS, names.COLOURS, names.MONTHS, names.TITLE_WORDS)
    assert len(found) < 600


def test_level_zero_has_eight_relations() -> None:
    first = [relation for kind in TYPES for relation in relations_of(kind, 0, False)]
    assert [relation.key for relation in first] == list(FIRST_KEYS)
    assert [relation.key for kind in TYPES for relation in relations_of(kind, 0, True)] == list(FIRST_HELD_OUT)
