from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memfold.core.errors import ConfigError
from memfold.core.prompt import ABSENT
from memfold.core.types import Sample
from memfold.tasks.almanac.questions import ABSENT_KIND, ALL_KINDS, KINDS
from memfold.tasks.almanac.task import almanac, write
from memfold.tasks.almanac.world import FIRST_KEYS, FIRST_TEMPLATES, RELATIONS, Fact
from memfold.tasks.task import Encode, TaskOptions

LEVELS = st.integers(0, 3)
SPLITS = st.sampled_from(["in", "out"])
PRONOUNS = ("Its ", "He ", "She ", "His ", "Her ")


def facts(encode: Encode, level: int, split: str, documents: int, size: int = 600) -> list[Fact]:
    options = TaskOptions(level=level, split=split)
    return [fact for seed in range(documents) for fact in write(Random(seed), size, options, encode).facts]


def text_of(sample: Sample) -> str:
    assert sample.document.text is not None
    return sample.document.text


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9), size=st.integers(48, 1200), level=LEVELS, split=SPLITS)
def test_documents_fit_their_size(encode: Encode, seed: int, size: int, level: int, split: str) -> None:
    text = write(Random(seed), size, TaskOptions(level=level, split=split), encode).text
    count = len(encode(text))
    assert count <= size
    assert size < 128 or count >= 0.9 * size
    assert "  " not in text
    assert text == text.strip()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9), size=st.integers(64, 700), level=LEVELS, split=SPLITS)
def test_evidence_is_exact_and_has_the_answer(encode: Encode, seed: int, size: int, level: int, split: str) -> None:
    samples = almanac(seed, size, TaskOptions(level=level, split=split, samples=16), encode)
    assert len({id(sample.document) for sample in samples}) == 1
    assert len({sample.question for sample in samples}) == len(samples)
    for sample in samples:
        text = text_of(sample)
        assert tuple(text[span.start : span.end] for span in sample.evidence) == sample.support
        assert not sample.support[0].startswith(PRONOUNS)
        assert (sample.level, sample.split, sample.task) == (level, split, "almanac")
        if sample.kind != "counting":
            assert all(any(answer[1:] in sentence for sentence in sample.support) for answer in sample.answers)
            assert not any(answer in sample.question for answer in sample.answers)


def test_the_same_seed_gives_the_same_samples(encode: Encode) -> None:
    options = TaskOptions(level=3, samples=8)
    first, other = almanac(7, 400, options, encode), almanac(8, 400, options, encode)
    assert first == almanac(7, 400, options, encode)
    assert text_of(first[0]) != text_of(other[0])


def test_the_same_seed_gives_the_same_samples_in_another_process(encode: Encode) -> None:
    program = (
        "import hashlib; from memfold.tasks.almanac.task import almanac; from memfold.tasks.task import TaskOptions\n"
        "samples = almanac(5, 900, TaskOptions(level=3, split='out', samples=16), lambda text: list(text.encode()))\n"
        "print(hashlib.sha256(repr(samples).encode()).hexdigest())"
    )
    samples = almanac(5, 900, TaskOptions(level=3, split="out", samples=16), lambda text: list(text.encode()))
    expected = hashlib.sha256(repr(samples).encode()).hexdigest()
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


def test_two_hops_never_fit_in_one_sentence(encode: Encode) -> None:
    count = 0
    for seed in range(60):
        for sample in almanac(seed, 500, TaskOptions(level=3, samples=12, kinds=("two-hop",)), encode):
            count += 1
            assert sample.hops == 2
            assert len(sample.support) >= 2
            named = re.findall(r"[A-Z]\w+(?: [A-Z]\w+)*", sample.question)[1:]
            assert named
            bare = re.sub(r"^The \w+ of ", "", sample.answers[-1])
            for sentence in re.split(r"(?<=\.)\s", text_of(sample)):
                words = rf"\b{re.escape(bare)}\b"
                assert not (re.search(words, sentence) and re.search(rf"\b{re.escape(named[-1])}\b", sentence))
    assert count > 200


def test_comparisons_need_at_least_three_facts(encode: Encode) -> None:
    samples = [
        sample
        for seed in range(40)
        for sample in almanac(seed, 500, TaskOptions(level=2, samples=4, kinds=("comparison",)), encode)
    ]
    assert len(samples) > 100
    assert all(len(sample.support) >= 3 for sample in samples)


def test_counts_agree_with_listings(encode: Encode) -> None:
    for seed in range(40):
        listed: dict[str, tuple[str, ...]] = {}
        for kind in ("listing", "counting"):
            for sample in almanac(seed, 800, TaskOptions(level=2, samples=20, kinds=(kind,)), encode):
                key = re.sub("^(Which|How many) ", "", sample.question)
                if kind == "listing":
                    listed[key] = sample.answers
                    assert sample.target == f"{', '.join(sample.answers[:-1])} and {sample.answers[-1]}"
                elif key in listed:
                    assert sample.answers == (str(len(listed[key])),)
                    assert 2 <= int(sample.answers[0]) <= 6


def test_two_hops_are_recalled_in_the_order_of_the_reasoning(encode: Encode) -> None:
    reordered = 0
    for seed in range(20):
        for sample in almanac(seed, 600, TaskOptions(level=3, samples=8, kinds=("two-hop",)), encode):
            if sample.kind != "two-hop":
                continue
            assert any(answer in sample.support[-1] for answer in sample.answers), "the answer is in the last sentence"
            assert not any(answer in sentence for answer in sample.answers for sentence in sample.support[:1])
            starts = [span.start for span in sample.evidence]
            reordered += starts != sorted(starts)
    assert reordered > 10, "the order often differs from that of the document"


def test_every_fact_has_a_distractor_in_a_document_with_room(encode: Encode) -> None:
    for seed in range(40):
        page = write(Random(seed), 400, TaskOptions(level=2), encode)
        counts = Counter(fact.relation.key for fact in page.facts)
        for sample in almanac(seed, 400, TaskOptions(level=2, samples=8, kinds=("one-hop",)), encode):
            fact = next(fact for fact in page.facts if fact.start == sample.evidence[-1].start)
            assert counts[fact.relation.key] >= 2


def test_level_zero_is_small(encode: Encode) -> None:
    for fact in facts(encode, 0, "in", 20):
        assert fact.relation.key in FIRST_KEYS
        templates = fact.relation.statements[:FIRST_TEMPLATES]
        assert fact.text in [template.format(s=fact.subject.name, v=fact.value) for template in templates]
        assert " " not in fact.subject.name


def test_levels_add_pronouns_filler_and_kinds(encode: Encode) -> None:
    assert not any(fact.after for fact in facts(encode, 1, "in", 20))
    assert sum(fact.after is not None for fact in facts(encode, 2, "in", 20)) > 50
    share = {}
    for level in (2, 3):
        page = write(Random(1), 20_000, TaskOptions(level=level), encode)
        share[level] = 1 - sum(len(fact.text) + 1 for fact in page.facts) / len(page.text)
    assert share[2] < 0.01
    assert 0.08 < share[3] < 0.12
    page = write(Random(1), 20_000, TaskOptions(level=2, filler=0.5), encode)
    assert 0.4 < 1 - sum(len(fact.text) + 1 for fact in page.facts) / len(page.text) < 0.6
    kinds = Counter(
        sample.kind for seed in range(100) for sample in almanac(seed, 700, TaskOptions(level=2, samples=8), encode)
    )
    assert 0.25 < kinds["two-hop"] / kinds.total() < 0.45
    assert 0.08 < (kinds["comparison"] + kinds["listing"] + kinds["counting"]) / kinds.total() < 0.2
    assert {sample.kind for sample in almanac(0, 700, TaskOptions(level=1, samples=30), encode)} == {"one-hop"}


def test_a_pronoun_follows_the_name_and_is_unambiguous(encode: Encode) -> None:
    for fact in facts(encode, 3, "in", 30):
        if fact.after is None:
            continue
        assert fact.after.subject is fact.subject
        assert fact.after.after is None
        assert fact.start > fact.after.start
        target = fact.after.target
        assert target is None or (target.type == "person") != (fact.subject.type == "person")


def test_each_entity_has_one_value_for_a_relation(encode: Encode) -> None:
    page = write(Random(3), 30_000, TaskOptions(level=3), encode)
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for fact in page.facts:
        values[fact.subject.name, fact.relation.key].add(fact.value)
    assert len(values) == len(page.facts)


@pytest.mark.parametrize("level", [0, 1, 3])
def test_split_out_is_held_out(encode: Encode, level: int) -> None:
    held_out_statements = {relation.held_out_statement for relation in RELATIONS}
    for fact in facts(encode, level, "in", 40):
        statement = fact.relation.held_out_statement.format(s=fact.subject.name, v=fact.value)
        assert not fact.relation.held_out
        assert not fact.held_out
        assert not fact.subject.held_out
        assert fact.text != statement[0].upper() + statement[1:]
    assert len(held_out_statements) == len(RELATIONS)
    for seed in range(25):
        options = TaskOptions(level=level, split="out", samples=8)
        page = write(Random(seed), 400, options, encode)
        starts = {fact.start: fact for fact in page.facts}
        for sample in almanac(seed, 400, options, encode):
            assert any(starts[span.start].held_out for span in sample.evidence)


@pytest.mark.parametrize(("level", "split"), [(0, "in"), (3, "in"), (3, "out")])
def test_guessing_without_the_document_fails(encode: Encode, level: int, split: str) -> None:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    total = 0
    for seed in range(400):
        for sample in almanac(seed, 300, TaskOptions(level=level, split=split, samples=5), encode):
            wording = re.sub(r"(The \w+ of )?[A-Z][a-z]+(-[A-Z][a-z]+)?( [A-Z][a-z]+)*(?=\W)", "*", sample.question)
            half = seed % 2
            answers[f"{half} {wording}"][sample.target if isinstance(sample.target, str) else ""] += 1
            total += 1
    correct = 0
    for key, counts in answers.items():
        if key.startswith("0") and (guess := answers.get("1" + key[1:])):
            correct += counts[guess.most_common(1)[0][0]]
    guesses = sum(counts.total() for key, counts in answers.items() if key.startswith("0"))
    assert total > 1900
    assert correct / guesses < 0.05


def test_questions_can_be_restricted_to_some_kinds(encode: Encode) -> None:
    samples = almanac(1, 400, TaskOptions(level=3, samples=5, kinds=("two-hop",)), encode)
    assert {sample.kind for sample in samples} == {"two-hop"}
    with pytest.raises(ConfigError, match="unknown kind of question 'two-hops'; nearest: 'two-hop'"):
        almanac(1, 400, TaskOptions(kinds=("two-hops",)), encode)
    with pytest.raises(ConfigError, match="level 1"):
        almanac(1, 400, TaskOptions(level=1, kinds=("listing",)), encode)


def test_a_size_without_room_is_refused(encode: Encode) -> None:
    with pytest.raises(ConfigError, match="larger size"):
        write(Random(1), 2, TaskOptions(), encode)


def test_a_long_document_has_enough_names_and_questions(encode: Encode) -> None:
    samples = almanac(2, 100_000, TaskOptions(level=3, samples=40), encode)
    assert len(samples) == 40
    assert 90_000 <= len(encode(text_of(samples[0]))) <= 100_000


# Questions that the document does not answer.


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**9), level=LEVELS, split=SPLITS)
def test_an_absent_question_is_about_something_the_page_does_not_state(
    encode: Encode, seed: int, level: int, split: str
) -> None:
    options = TaskOptions(level=level, split=split, samples=6, kinds=(ABSENT_KIND,))
    samples = almanac(seed, 128, options, encode)
    rng = Random(seed)
    page = write(rng, 128, options, encode)
    stated = {
        template.format(s=fact.subject.name).lower() for fact in page.facts for template in fact.relation.questions
    }
    for sample in samples:
        assert (sample.kind, sample.answers, sample.target) == (ABSENT_KIND, (ABSENT,), ABSENT)
        assert (sample.support, sample.evidence, sample.hops) == ((), (), 0)
        if sample.document.text == page.text:
            assert sample.question.lower() not in stated


def test_absent_questions_have_to_be_requested(encode: Encode) -> None:
    kinds = {
        sample.kind for seed in range(30) for sample in almanac(seed, 256, TaskOptions(level=3, samples=10), encode)
    }
    assert kinds == set(KINDS)
    mixed = [
        sample.kind
        for seed in range(60)
        for sample in almanac(seed, 256, TaskOptions(level=3, samples=10, kinds=ALL_KINDS), encode)
    ]
    assert 0.05 < mixed.count(ABSENT_KIND) / len(mixed) < 0.15
