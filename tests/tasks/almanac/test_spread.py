from __future__ import annotations

import re
from itertools import islice
from random import Random

import pytest

from memfold.core.errors import ConfigError
from memfold.core.types import Sample
from memfold.tasks.almanac import spread as module
from memfold.tasks.almanac.spread import APART, names_in, spread
from memfold.tasks.almanac.task import write
from memfold.tasks.task import Encode, TaskOptions

SUBJECT = r"(?:He|She|His|Her|Its)\b"  # a sentence with "It" may also name its subject


def made(encode: Encode, size: int, seed: int = 1, **options: object) -> list[Sample]:
    return spread(seed, size, TaskOptions(**{"samples": 4} | options), encode)  # type: ignore[arg-type]


@pytest.mark.parametrize(("size", "split", "level"), [(300, "in", 3), (4096, "out", 3), (20_000, "in", 2)])
def test_documents_have_their_length_and_the_evidence_stands_where_it_is_said_to(
    encode: Encode, size: int, split: str, level: int
) -> None:
    for seed in range(3):
        samples = made(encode, size, seed, split=split, level=level)
        text = samples[0].document.read()
        assert size - 40 <= len(encode(text)) <= size
        assert [sample.kind for sample in samples] == ["one-hop", "two-hop"] * 2
        for sample in samples:
            assert sample.document is samples[0].document
            assert tuple(text[span.start : span.end] for span in sample.evidence) == sample.support
            assert sample.answers[-1] in sample.support[-1]
            named = [sentence for sentence in sample.support if not re.match(rf"{SUBJECT}|It\b", sentence)]
            assert all(text.count(sentence) == 1 for sentence in named)


def test_kinds_take_turns_from_document_to_document_where_there_are_fewer_questions(encode: Encode) -> None:
    kinds = ("two-hop", "one-hop")
    single = [made(encode, 400, seed, samples=1, kinds=kinds)[0].kind for seed in range(12)]
    assert set(single) == set(kinds)
    assert {made(encode, 400, seed, samples=1)[0].kind for seed in range(4)} == {"one-hop"}, "as the suite has them"
    assert [sample.kind for sample in made(encode, 600, 3, samples=3, kinds=kinds)] == ["two-hop", "one-hop", "two-hop"]


def test_the_facts_of_a_question_stand_apart(encode: Encode) -> None:
    orders = set()
    for seed in range(8):
        for sample in made(encode, 4096, seed, samples=8, kinds=("two-hop",)):
            length = len(sample.document.read())
            first, last = sample.evidence[0], sample.evidence[-1]
            assert abs(first.start - last.start) > 0.5 * APART * length, "apart by parts, which differ in length"
            orders.add(first.start < last.start)
    assert orders == {True, False}


def test_a_pronoun_stands_behind_the_sentence_that_names_it(encode: Encode) -> None:
    """Sentences that belong together stay so, and nothing is put before a pronoun of the filler."""
    rng, options = Random(0), TaskOptions()
    world = module._world(rng, 2048, options, ["two-hop"], encode)
    page = write(Random(1), 512, options, encode)
    articles = [module._cut(page), *islice(module._articles(rng, frozenset(), options, encode), 2)]
    assert "".join(map(str, articles[0])) == page.text
    parts = [str(part) for article in articles for part in article]
    assert not any(re.match(SUBJECT, part) for part in parts)
    assert re.search(rf" {SUBJECT}", "".join(parts)), "there are some to be put before"
    module._insert(rng, world, articles)
    text = module._text(articles)
    assert any(len(unit) > 1 for unit in world.units)
    for unit in world.units:
        assert text[unit[0].start :].startswith(" ".join(fact.text for fact in unit))
    assert len(articles[0]) > len(module._cut(page)), "some were put in"


@pytest.mark.parametrize("split", ["in", "out"])
def test_no_name_of_the_questions_stands_in_the_filler(encode: Encode, split: str) -> None:
    options = TaskOptions(split=split)
    world = module._world(Random(0), 8192, options, ["one-hop", "two-hop"] * 16, encode)
    names = world.names()
    assert len(names) > 50
    assert {"Saint", "Old", "Gate", "The"}.isdisjoint(names)
    asked = " ".join(draft.question for draft in world.drafts)
    assert names & names_in(asked)

    def meet(taken: frozenset[str]) -> int:
        articles = islice(module._articles(Random(1), taken, options, encode), 100)
        return sum(not names.isdisjoint(names_in(module._text([article]))) for article in articles)

    assert meet(frozenset()) > 5, "they would, if nobody looked"
    assert meet(names) == 0


def test_the_same_seed_writes_the_same_document(encode: Encode) -> None:
    assert made(encode, 2048) == made(encode, 2048)
    assert made(encode, 2048)[0].document != made(encode, 2048, 2)[0].document


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (2048, {"kinds": ("listing",)}, "unknown kind of question 'listing'"),
        (
            2048,
            {"level": 1, "kinds": ("two-hop",)},
            "documents of 2048 tokens at level 1 have no 4 questions of kind two",
        ),
        (64, {"samples": 30}, "use longer documents, fewer questions about each, or level 2 or 3"),
    ],
)
def test_questions_that_cannot_be_asked(encode: Encode, size: int, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(encode, size, **options)
