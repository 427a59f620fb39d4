"""Labels for the gate in rollouts: what it should have opened after each note, right or wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memfold.core.document import Document
from memfold.core.errors import ConfigError
from memfold.core.system import UPDATE
from memfold.core.types import Block, Call, Generate, HeadScore, Memory, Reply, Sample, Span, Step, Trace
from memfold.systems.full.system import Full
from memfold.systems.kvbank.gate import head_call
from memfold.systems.kvbank.settings import KvbankFold, KvbankRead
from memfold.systems.kvbank.system import Kvbank

FIRST, OTHER = "The mill of Tor was built by Ada Brisk.", "The mill of Bol was built by Ivo Lem."
LAST, FILLER = "Ada Brisk sells wool.", "Rain fell on the road."
LINES = (LAST, OTHER, FILLER, FIRST, FILLER)
QUESTION = "What does the builder of the mill of Tor sell?"


def sample_of(support: tuple[str, ...]) -> Sample:
    text = "\n".join(LINES)
    spans = tuple(Span(text.index(each), text.index(each) + len(each)) for each in support)
    answer = "wool" if support else "not in the text"
    return Sample("almanac", Document("a", text=text), QUESTION, (answer,), answer, evidence=spans, support=support)


def memory() -> Memory:
    """A block for each line."""
    blocks, start = list[Block](), 0
    for index, line in enumerate(LINES):
        blocks.append(Block(index, 0, 8 * index, 8 * index + 8, start, start + len(line), text=line))
        start += len(line) + 1
    return Memory("a", "kvbank", {}, "", ("a",), blocks)


def gate(note: str, **scores: float) -> list[Step]:
    """The gate sees blocks (b0, b1, ...) with a note."""
    place = (KvbankFold(), KvbankRead(gate="head"), "a")
    return [
        Step(head_call(*place, int(name[1:]), QUESTION, note), Reply(score=score)) for name, score in scores.items()
    ]


def noted(note: str, finish: str = "stop") -> Step:
    return Step(Call(UPDATE, (), Generate()), Reply(note, finish="length" if finish == "length" else "stop"))


def labels(sample: Sample, *steps: Step, unchanged: int = 1) -> list[tuple[int, float | None]]:
    """Where the steps of the labelled trace are trained, and the labels there."""
    system = Kvbank.of({"unchanged": unchanged})
    answer = Step(Call("answer", (), Generate()), Reply("wool"))
    trace = system.labelled(sample, memory(), Trace(QUESTION, "kvbank", steps=(*steps, answer)))
    assert len(trace.steps) == len(steps) + 1
    replies = [(step.reply.text, step.reply.tokens) for step in trace.steps]
    assert replies == [(step.reply.text, step.reply.tokens) for step in (*steps, answer)]
    assert all(isinstance(step.call.wants, HeadScore) for step in trace.steps if step.call.trained)
    return [(number, step.reply.score) for number, step in enumerate(trace.steps) if step.call.trained]


def test_a_block_is_opened_once_what_it_adds_is_known_to_matter() -> None:
    """The last hop stands in block 0, and nothing leads to it before block 3 is noted."""
    steps = [*gate("", b0=-3.0, b1=1.0, b2=-5.0, b3=2.0, b4=-4.0), noted(FIRST)]
    steps += [*gate(FIRST, b0=3.0, b1=-1.0, b2=-2.0, b4=-5.0), noted(f"{FIRST} {LAST}")]
    assert labels(sample_of((FIRST, LAST)), *steps) == [(1, 0.0), (3, 1.0), (6, 1.0), (7, 0.0)]
    steps += gate(f"{FIRST} {LAST}", b1=-2.0, b2=-5.0, b4=-4.0)
    assert labels(sample_of((FIRST, LAST)), *steps)[4:] == [(11, 0.0)], "all is noted"


def test_after_a_wrong_note_the_right_block_is_still_one_to_open() -> None:
    """The reasoner read the mill of Bol and noted it for the one of Tor."""
    wrong = "The mill of Tor was built by Ivo Lem."
    steps = [*gate("", b1=1.0), noted(wrong), *gate(wrong, b0=-2.0, b3=-4.0, b4=-6.0)]
    assert labels(sample_of((FIRST, LAST)), *steps) == [(0, 0.0), (2, 0.0), (3, 1.0)]


def test_the_blocks_that_the_gate_likes_best_are_trained_of_those_that_add_nothing() -> None:
    steps = gate("", b0=-3.0, b1=1.0, b2=-5.0, b4=-4.0)
    assert labels(sample_of((FIRST, LAST)), *steps, unchanged=2) == [(0, 0.0), (1, 0.0)]
    assert labels(sample_of(()), *steps, unchanged=0) == []
    assert labels(sample_of(()), *steps, unchanged=9) == [(0, 0.0), (1, 0.0), (2, 0.0), (3, 0.0)]


def test_a_note_that_is_cut_or_blank_is_the_one_that_the_gate_saw() -> None:
    """A blank reply leaves the note as it is; one that is cut loses its last sentence."""
    steps = [*gate("", b3=1.0), noted(f"{FIRST} {LAST[:9]}", "length"), *gate(FIRST, b0=1.0), noted(" ")]
    steps += gate(FIRST, b0=1.0)
    assert labels(sample_of((FIRST, LAST)), *steps) == [(0, 1.0), (2, 1.0), (4, 1.0)]


def test_a_question_without_supporting_sentences_is_refused() -> None:
    bare = replace(sample_of((FIRST,)), support=(), evidence=())
    with pytest.raises(ConfigError, match="task 'almanac' cannot train the gate of system 'kvbank'"):
        labels(bare, *gate("", b0=1.0))


def test_a_system_without_heads_has_no_labels() -> None:
    with pytest.raises(ConfigError, match="system 'full' has no head that learns from labels; use objective = 'rewar"):
        Full().labelled(sample_of(()), memory(), Trace(QUESTION, "full"))
