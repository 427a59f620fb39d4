from __future__ import annotations

import re
from random import Random

import pytest

from memfold.tasks import names
from memfold.tasks.names import Namer

HELD_OUT = re.compile(rf"(?:{'|'.join(names.LEADING_VOWELS)})[a-z]|[a-z]-[A-Z]|(?:{'|'.join(names.PREFIXES)}) [A-Z]")


def test_a_letter_that_ends_a_syllable_begins_none() -> None:
    onsets = {syllable[0] for syllable in names.SYLLABLES}
    codas = {syllable[-1] for syllable in names.CLOSED_SYLLABLES}
    assert not onsets & codas
    assert len(set(names.SYLLABLES)) == len(names.SYLLABLES) >= 90


@pytest.mark.parametrize("kind", ["person", "town", "book", "ship"])
def test_names_are_not_repeated(kind: str) -> None:
    namer = Namer(Random(1), level=2)
    bare = [namer.name(kind)[1] for _ in range(20_000)]
    assert len(set(bare)) == len(bare)


def test_level_zero_has_names_of_one_word() -> None:
    namer = Namer(Random(2), level=0)
    for kind in ("person", "town"):
        for held_out in (False, True):
            assert all(" " not in namer.name(kind, held_out)[0] for _ in range(99))


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("kind", ["person", "town", "river", "book", "guild", "ship"])
def test_held_out_patterns_occur_in_held_out_names_only(kind: str, level: int) -> None:
    namer = Namer(Random(3), level)
    ordinary = [namer.name(kind)[1] for _ in range(3000)]
    held_out = [namer.name(kind, held_out=True)[1] for _ in range(300)]
    assert not [name for name in ordinary if HELD_OUT.search(name)]
    assert all(HELD_OUT.search(name) for name in held_out)


def test_values_have_their_format() -> None:
    forms = {
        "year": r"1[4-8]\d\d",
        "number": r"[1-9]\d{1,4}",
        "date": r"\d{1,2} [A-Z][a-z]+ 1[4-8]\d\d",
        "code": r"[A-Z]{2}-\d{4}",
        "emblem": r"[a-z]+ [a-z]+",
        "goods": r"[a-z]+",
    }
    rng = Random(4)
    for kind, draw in names.LITERALS.items():
        values = [draw(rng) for _ in range(600)]
        assert all(re.fullmatch(forms[kind], value) for value in values), kind
        assert len(set(values)) >= 60


def test_names_include_type_words() -> None:
    namer = Namer(Random(5), level=1)
    written, bare = namer.name("river")
    assert written == f"the river {bare}"
    assert re.fullmatch(r"The [A-Z][a-z]+ of [A-Z][a-z]+", namer.name("book")[0])
