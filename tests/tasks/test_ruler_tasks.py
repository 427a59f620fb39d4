import re
from collections import defaultdict

import pytest

from memfold.core.errors import ConfigError
from memfold.core.types import Sample
from memfold.tasks.ruler import ALONE, KINDS, TASKS
from memfold.tasks.task import Encode, TaskOptions

NEEDLE_TASKS = [task for kind in ("needle", "multi-key", "multi-value", "multi-query") for task in KINDS[kind]]
STATED = re.compile(r"The secret (\w+) of (\S+) is (\S+)\.")
SEVERAL = re.compile(r"What are the (?:\d )?secret (\w+)s of (.+)\?")
ONE = re.compile(r"What is the secret (\w+) of (.+)\?")


def made(task: str, size: int, encode: Encode, samples: int = 1, seed: int = 11, split: str = "in") -> list[Sample]:
    return TASKS[task](seed, size, TaskOptions(3, split, samples), encode)


def expected(sample: Sample) -> list[str]:
    """The answers, from the text and the question alone."""
    said = defaultdict(list)
    for noun, key, value in STATED.findall(sample.document.read()):
        said[noun, key].append(value)
    noun, names = (SEVERAL.fullmatch(sample.question) or ONE.fullmatch(sample.question)).groups()  # type: ignore[union-attr]
    return [value for name in re.split(", | and ", names) for value in said[noun, name]]


@pytest.mark.parametrize("task", NEEDLE_TASKS)
@pytest.mark.parametrize("samples", [1, 3])
def test_answers_are_those_that_the_text_states(encode: Encode, task: str, samples: int) -> None:
    made_samples = made(task, 1500, encode, samples)
    assert len({sample.question for sample in made_samples}) == len(made_samples) == samples
    for sample in made_samples:
        assert sorted(expected(sample)) == sorted(sample.answers)
        assert len(sample.answers) == (4 if task in ("multi-value", "multi-query") else 1)


def test_what_is_planted_where(encode: Encode) -> None:
    texts = {task: made(task, 4096, encode)[0].document.read() for task in NEEDLE_TASKS}
    stated = {task: STATED.findall(text) for task, text in texts.items()}
    counts = {task: len(found) for task, found in stated.items()}
    planted = {"needle-1": 1, "needle-2": 1, "needle-3": 1, "multi-key-1": 4, "multi-value": 4, "multi-query": 4}
    assert {task: counts[task] for task in planted} == planted
    assert {task for task, found in stated.items() if found[0][0] == "identifier"} == {"needle-3", "multi-key-3"}
    for task in ("multi-key-2", "multi-key-3"):
        assert counts[task] == len(texts[task].split("\n")) == len({key for _, key, _ in stated[task]})
        assert counts[task] > 30
    assert all(len(key) == len(value) == 36 for _, key, value in stated["multi-key-3"])
    assert len({key for _, key, _ in stated["multi-value"]}) == 1
    sentences = {task: {one.strip() for one in texts[task].split(".")} for task in ("needle-1", "needle-2")}
    assert len(sentences["needle-1"]) < 10 < 100 < len(sentences["needle-2"])


def test_a_chain_of_assignments_is_followed_to_all_names(encode: Encode) -> None:
    (sample,) = made("tracking", 1500, encode)
    said = dict(re.findall(r"The number of (\w+) is (?:that of )?(\w+)\.", sample.document.read()))
    (number,) = re.findall(r"\d{5}", sample.question)
    names, found = set(said), {number}
    while more := {name for name in names - found if said[name] in found}:
        found |= more
    assert found - {number} == set(sample.answers) == names
    assert len(sample.answers) == 5


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("size", [4096, 12_000])
def test_documents_have_their_length_and_evidence(encode: Encode, task: str, size: int) -> None:
    samples = made(task, size, encode, 1 if task in ALONE else 4)
    assert len(samples) == (1 if task in ALONE else 4)
    (text,) = {sample.document.read() for sample in samples}
    assert 0.98 * size <= len(encode(text)) <= size
    for sample in samples:
        assert tuple(text[span.start : span.end] for span in sample.evidence) == sample.support
        assert bool(sample.support) == (task not in ALONE)


@pytest.mark.parametrize("task", TASKS)
def test_a_seed_gives_one_document(encode: Encode, task: str) -> None:
    assert made(task, 900, encode) == made(task, 900, encode)
    assert made(task, 900, encode)[0].document.read() != made(task, 900, encode, seed=12)[0].document.read()


@pytest.mark.parametrize("task", TASKS)
def test_the_split_reaches_the_sample(encode: Encode, task: str) -> None:
    (sample,) = made(task, 1200, encode, split="out")
    assert sample.split == "out"
    assert ("Nobody but you knows" in sample.document.read()) == (task in NEEDLE_TASKS)


def test_questions_without_a_needle_of_their_own_are_refused(encode: Encode) -> None:
    with pytest.raises(ConfigError, match=r"60 tokens have room for \d needles, not for 9 questions; use larger"):
        made("multi-key-2", 60, encode, 9)
    with pytest.raises(ConfigError, match="no sentence has room"):
        made("multi-value", 60, encode, 9)
