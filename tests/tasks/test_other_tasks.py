from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memfold.core.errors import ConfigError
from memfold.tasks.filler import TEMPLATES
from memfold.tasks.instructions import INSTRUCTIONS
from memfold.tasks.needle import needle
from memfold.tasks.table import LOCAL, TASKS, load_task
from memfold.tasks.task import Encode, TaskOptions

SEEDS = st.integers(0, 10**9)


@pytest.mark.parametrize("name", sorted(set(TASKS) - set(LOCAL)))  # tasks on files are in test_local.py
def test_every_task_is_a_function_of_its_seed(encode: Encode, name: str) -> None:
    task = load_task(name)
    size = 16 if name == "group" else 160
    options = TaskOptions(level=2, samples=3, bridges=(0, 2))
    first = task(4, size, options, encode)
    assert first == task(4, size, options, encode)
    assert first != task(5, size, options, encode)
    assert {sample.task for sample in first} == {name}


def test_the_error_for_an_unknown_task_suggests_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="unknown task 'almanack'; nearest: 'almanac'"):
        load_task("almanack")


def test_pools_have_five_to_eight_instructions_most_of_them_short() -> None:
    for pool in INSTRUCTIONS.values():
        assert 5 <= len(set(pool)) <= 8
        assert sum(len(text.split()) <= 10 for text in pool) > len(pool) / 2


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, size=st.integers(48, 600), level=st.integers(0, 3))
def test_the_target_of_reconstruction_is_the_document(encode: Encode, seed: int, size: int, level: int) -> None:
    (sample,) = load_task("reconstruction")(seed, size, TaskOptions(level=level), encode)
    assert sample.document.tokens == sample.target
    assert len(sample.target) == size
    assert sample.question in INSTRUCTIONS["reconstruction"]


@given(seed=SEEDS, size=st.sampled_from([4, 8, 16, 64]))
@settings(max_examples=20, deadline=None)
def test_a_group_has_exactly_its_size(encode: Encode, seed: int, size: int) -> None:
    (sample,) = load_task("group")(seed, size, TaskOptions(level=1), encode)
    assert len(sample.target) == size


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, size=st.integers(32, 400), bridge=st.integers(0, 4), ratio=st.sampled_from([4, 8, 16]))
def test_the_continuation_follows_the_memory(encode: Encode, seed: int, size: int, bridge: int, ratio: int) -> None:
    options = TaskOptions(level=2, bridges=(0, bridge), ratio=ratio)
    (sample,) = load_task("continuation")(seed, size, options, encode)
    (whole,) = load_task("reconstruction")(seed, size, options, encode)
    assert sample.document.tokens is not None
    assert not isinstance(sample.target, str)
    assert sample.document.tokens + sample.bridge + sample.target == whole.target
    assert len(sample.document.tokens) % ratio == 0
    assert len(sample.bridge) in range(0, bridge * ratio + 1, ratio)
    assert sample.target


def test_the_number_of_bridge_chunks_is_uniform(encode: Encode) -> None:
    options = TaskOptions(level=1, bridges=(0, 2))
    counts = Counter(len(load_task("continuation")(seed, 128, options, encode)[0].bridge) for seed in range(150))
    assert set(counts) == {0, 16, 32}
    assert min(counts.values()) > 25


def test_a_text_too_short_to_continue_is_refused(encode: Encode) -> None:
    with pytest.raises(ConfigError, match="32 tokens"):
        load_task("continuation")(1, 31, TaskOptions(), encode)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, size=st.integers(24, 500), level=st.integers(0, 3))
def test_a_cue_occurs_once(encode: Encode, seed: int, size: int, level: int) -> None:
    samples = load_task("cued")(seed, size, TaskOptions(level=level, samples=6), encode)
    positions = set()
    for sample in samples:
        tokens, cue = sample.document.tokens, sample.bridge
        assert tokens is not None
        (position,) = [start for start in range(size - len(cue) + 1) if tokens[start : start + len(cue)] == cue]
        end = position + len(cue)
        assert sample.target == tokens[end : end + len(sample.target)]
        assert min(20, size // 2) <= len(sample.target) <= 30
        assert 4 <= len(cue) <= 6
        positions.add(position)
    assert len(positions) == len(samples)
    assert size < 100 or len(samples) == 6


@settings(max_examples=40, deadline=None)
@given(
    seed=SEEDS,
    size=st.integers(100, 700),
    depth=st.sampled_from([None, 0.0, 0.5, 1.0]),
    keys=st.integers(1, 3),
    haystack=st.sampled_from(["filler", "almanac"]),
    split=st.sampled_from(["in", "out"]),
)
def test_needles_can_be_found(
    encode: Encode, seed: int, size: int, depth: float | None, keys: int, haystack: str, split: str
) -> None:
    options = TaskOptions(level=2, split=split)
    (sample,) = needle(seed, size, options, encode, keys=keys, depth=depth, haystack=haystack)
    text = sample.document.text
    assert text is not None
    assert len(encode(text)) <= size
    assert size < 128 or len(encode(text)) >= 0.9 * size
    (span,) = sample.evidence
    assert (text[span.start : span.end],) == sample.support
    assert text.count(sample.answers[0]) == 1
    assert sample.answers[0] in sample.support[0]
    if depth == 0.0 and keys == 1:
        assert span.start == 0
    if depth == 1.0 and keys == 1:
        assert span.end > len(text) * 0.8


def test_needles_can_be_restricted_to_some_kinds(encode: Encode) -> None:
    samples = needle(1, 400, TaskOptions(level=1, samples=4, kinds=("number",)), encode)
    assert len(samples) == 4
    assert all(sample.kind == "number" and sample.answers[0].isdigit() for sample in samples)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, size=st.integers(64, 800), level=st.integers(0, 3))
def test_a_summary_contains_only_what_the_document_says(encode: Encode, seed: int, size: int, level: int) -> None:
    (sample,) = load_task("summarisation")(seed, size, TaskOptions(level=level), encode)
    text, summary = sample.document.text, sample.answers[0]
    assert text is not None
    assert summary == sample.target
    (span,) = sample.evidence
    assert summary.endswith(text[span.start : span.end])
    for word in summary.split(". ")[0].replace(",", "").split():
        assert word[0].islower() or word == "The" or word in text


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, size=st.integers(32, 300), kind=st.sampled_from(["spans", "cycle"]))
def test_induction_sequences_repeat_themselves(encode: Encode, seed: int, size: int, kind: str) -> None:
    samples = load_task("induction")(seed, size, TaskOptions(samples=2, kinds=(kind,)), encode)
    assert len(samples) == 2
    for sample in samples:
        assert sample.document.tokens == ()
        assert sample.question == ""
        assert len(sample.target) == size
        pairs = Counter(zip(sample.target, sample.target[1:], strict=False))
        repeated = sum(count - 1 for count in pairs.values()) / pairs.total()
        assert size < 100 or repeated > 0.3


def test_filler_is_varied_and_fits(encode: Encode) -> None:
    assert len(set(TEMPLATES)) >= 40
    (sample,) = load_task("filler")(1, 2000, TaskOptions(), encode)
    assert isinstance(sample.target, str)
    assert sample.target == sample.document.text
    assert 1800 <= len(encode(sample.target)) <= 2000
    sentences = sample.target.replace("\n", " ").split(". ")
    assert len(set(sentences)) > 0.9 * len(sentences)
