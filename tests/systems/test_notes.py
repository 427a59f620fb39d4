"""The notes of supervised samples: what a reader can know at each part of a document."""

from __future__ import annotations

import pytest

from memfold.backbone.model import Backbone
from memfold.core.document import Chunk, Document
from memfold.core.errors import ConfigError
from memfold.core.prompt import ABSENT
from memfold.core.types import Sample, Span
from memfold.systems.shared.notes import EMPTY, NotedPart, noted_parts

FIRST = "The mill of Tor was built by Ada Brisk."
LAST = "Ada Brisk sells wool."
BETWEEN = ["Rain fell on the road.", "Nobody was there."]


def sample_of(sentences: list[str], support: tuple[str, ...], answers: tuple[str, ...] = ("wool",)) -> Sample:
    text = "\n".join(sentences)
    spans = tuple(Span(text.index(sentence), text.index(sentence) + len(sentence)) for sentence in support)
    question = "What does the builder of the mill of Tor sell?"
    return Sample("almanac", Document("a", text=text), question, answers, answers[0], evidence=spans, support=support)


def readings(sample: Sample, backbone: Backbone, passes: int = 1, skip_noted: bool = False) -> list[NotedPart]:
    """A part for each line."""
    parts, start = list[Chunk](), 0
    for index, line in enumerate(sample.document.read().split("\n")):
        parts.append(Chunk(index, tuple(backbone.encode(line)), (), 0, start, start + len(line), line))
        start += len(line) + 1
    return noted_parts(sample, parts, backbone, "system 'a'", passes, skip_noted)


def test_a_second_hop_that_comes_first_is_noted_on_the_second_pass(backbone: Backbone) -> None:
    sample = sample_of([LAST, *BETWEEN, FIRST], (FIRST, LAST))
    assert [each.after for each in readings(sample, backbone)] == [EMPTY, EMPTY, EMPTY, FIRST]
    twice = readings(sample, backbone, passes=2, skip_noted=True)
    assert [each.chunk.index for each in twice] == [0, 1, 2, 3, 0, 1, 2]
    assert [each.adds for each in twice] == [False, False, False, True, True, False, False]
    assert twice[-1].after == f"{FIRST} {LAST}"


def test_hops_in_order_are_noted_on_the_first_pass(backbone: Backbone) -> None:
    sample = sample_of([BETWEEN[0], FIRST, BETWEEN[1], LAST], (FIRST, LAST))
    assert [each.adds for each in readings(sample, backbone)] == [False, True, False, True]


def test_a_pronoun_follows_the_sentence_that_names_its_subject(backbone: Backbone) -> None:
    support = ("The mill of Tor stands by a river.", "It was built by Ada Brisk.", LAST)
    sample = sample_of([" ".join(support[:2]), BETWEEN[0], LAST], support)
    assert [each.after for each in readings(sample, backbone)][-1] == " ".join(support)


def test_notes_of_an_absent_answer_stay_empty(backbone: Backbone) -> None:
    sample = sample_of([FIRST, *BETWEEN], (), (ABSENT,))
    assert not any(each.adds for each in readings(sample, backbone, passes=2))
    with pytest.raises(ConfigError, match="cannot train system 'a'"):
        readings(sample_of([FIRST, LAST], ()), backbone)
