"""Chunks that are read in parallel with one note: which calls are made together, and what becomes of their notes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
from chat_server import SECONDS, ChatServer, says
from scripted_policy import ScriptedPolicy, scripted

from memfold.backbone.model import Backbone
from memfold.core.document import Document
from memfold.core.job import Job
from memfold.core.prompt import ABSENT
from memfold.core.scheduler import answer
from memfold.core.types import Answer, Block, BlockRef, Call, Memory, Reply, Sample, Span, Step, Text, Trace
from memfold.endpoint.model import EndpointModel
from memfold.endpoint.policy import EndpointPolicy
from memfold.systems.recurrent.system import TOGETHER, Recurrent
from memfold.systems.shared.notes import EMPTY

BORN, MET, SEA = "Ada was born in Velm.", "Lor met Ada there.", "Velm lies by the sea."
TEXTS = (f"{BORN} ", f"{MET} ", f"{SEA} ")
QUESTION = "Where was Ada born?"
LAST = r"Ada was born in Velm. \boxed{Velm}"


def memory(texts: Sequence[str] = TEXTS, tokens: int = 6) -> Memory:
    starts = list(accumulate(map(len, texts), initial=0))
    blocks = [
        Block(index, 0, tokens * index, tokens * (index + 1), starts[index], starts[index + 1], text=text)
        for index, text in enumerate(texts)
    ]
    return Memory("m", "recurrent", {}, "", ("a.txt",), blocks)


def ask(*replies: str | Reply, about: Memory | None = None, **settings: Any) -> tuple[ScriptedPolicy, Trace]:
    """The policy that gives these replies one after another, and the trace."""
    policy = scripted(*replies)
    system = Recurrent.of({"parallel": True} | settings)
    return policy, answer(Job(system, about or memory(), QUESTION), policy)


def notes(calls: Sequence[Call]) -> list[str]:
    """The note that each call sees."""
    return [[part.text for part in call.parts if isinstance(part, Text)][1] for call in calls]


def blocks(calls: Sequence[Call]) -> list[int]:
    return [part.index for call in calls for part in call.parts if isinstance(part, BlockRef)]


def test_all_chunks_are_read_with_the_same_note_in_one_step() -> None:
    policy, trace = ask(f" {BORN}\n", "", f"{SEA} {BORN}", LAST)
    assert policy.rounds == [3, 1]
    assert [call.purpose for call in policy.calls] == ["addition"] * 3 + ["answer"]
    assert blocks(policy.calls) == [0, 1, 2]
    assert notes(policy.calls) == [EMPTY, EMPTY, EMPTY, f"{BORN} {SEA}"]
    assert [step.call for step in trace.steps] == policy.calls
    assert (trace.failure, trace.cost.calls) == (None, 4)
    assert isinstance(trace.answer, Answer)
    assert (trace.answer.text, trace.answer.citations[0].text) == ("Velm", BORN)


def test_a_first_round_has_the_prompts_of_a_reading_in_sequence_with_an_empty_note() -> None:
    """But for the limit, which is that of the text that was read for the note: here one chunk."""
    settings = {"chat_template": "chatml", "note": 1000}
    alike = scripted("", "", "", LAST)
    answer(Job(Recurrent.of(settings), memory(tokens=80), QUESTION), alike)
    policy, _ = ask("", "", "", LAST, about=memory(tokens=80), **settings)
    assert [call.sampling.max_tokens for call in alike.calls] == [80, 160, 240, 160]
    assert [call.sampling.max_tokens for call in policy.calls] == [80, 80, 80, 160]
    assert policy.calls[0] == replace(alike.calls[0], purpose="addition")
    assert [call.parts[:-2] for call in policy.calls] == [call.parts[:-2] for call in alike.calls]


def test_a_second_round_sees_the_merged_note_and_its_sentences_stay() -> None:
    policy, _ = ask("", BORN, "", SEA, EMPTY, f"{MET} {BORN}", LAST, passes=2)
    assert policy.rounds == [3, 3, 1]
    assert blocks(policy.calls) == [0, 1, 2, 0, 1, 2]
    assert notes(policy.calls) == [EMPTY] * 3 + [BORN] * 3 + [f"{BORN} {SEA} {MET}"]


def test_a_round_that_adds_nothing_is_the_last() -> None:
    policy, _ = ask(BORN, "", "", "", BORN, EMPTY, LAST, passes=9)
    assert policy.rounds == [3, 3, 1]
    policy, _ = ask("", EMPTY, " ", LAST, passes=9)
    assert policy.rounds == [3, 1]
    assert notes(policy.calls)[-1] == EMPTY


def test_the_merged_note_obeys_the_limit() -> None:
    """63 characters are 18 tokens, so 8 tokens are 28 characters: two of these sentences are too long."""
    policy, _ = ask(SEA, BORN, MET, LAST, note=8)
    assert notes(policy.calls)[-1] == BORN
    many = [f"Fact number {number} is of use." for number in range(3)]
    policy, _ = ask(*many, LAST, note=18)
    assert notes(policy.calls)[-1] == " ".join(many[:2])
    assert len(" ".join(many[:2])) <= 63 < len(" ".join(many))


def test_each_reply_obeys_the_rule_of_overflow() -> None:
    cut = Reply(f"{BORN} {BORN} Velm lies", finish="length")
    policy, _ = ask(cut, "", MET, LAST, note=40)
    assert notes(policy.calls)[-1] == f"{BORN} {MET}"
    policy, _ = ask(cut, "", MET, LAST, note=40, overflow="keep")
    assert notes(policy.calls)[-1] == f"{BORN} Velm lies\n{MET}"


def test_notes_that_are_asked_for_again_are_asked_for_together() -> None:
    cut = Reply(f"{BORN} Velm lies", finish="length")
    policy, _ = ask(cut, MET, cut, SEA, "", LAST, note=40, overflow="shorter")
    assert policy.rounds == [3, 2, 1]
    assert blocks(policy.calls) == [0, 1, 2, 0, 2]
    assert [call.sampling.max_tokens for call in policy.calls] == [40, 40, 40, 20, 20, 160]
    assert notes(policy.calls)[-1] == f"{SEA} {MET}", "in the order of the text, whichever came last"


def test_a_round_reads_the_candidates_of_question_and_note() -> None:
    policy, _ = ask(SEA, "", LAST, passes=2, candidates=1)
    assert policy.rounds == [1, 1, 1]
    assert blocks(policy.calls) == [0, 2], "the note has words of the last chunk"
    policy, _ = ask(LAST, candidates=2, about=memory(("Nothing. ", "Of use. ")))
    assert policy.rounds == [1]


def test_the_question_is_asked_after_each_round_that_has_added_something() -> None:
    policy, trace = ask(BORN, "", "", ABSENT, "", SEA, "", "Velm", style="bare", stop="answered", passes=3)
    assert policy.rounds == [3, 1, 3, 1]
    assert isinstance(trace.answer, Answer)
    assert trace.answer.text == "Velm"
    policy, _ = ask("", "", "", ABSENT, style="bare", stop="answered", passes=3)
    assert policy.rounds == [3, 1]


def test_a_long_text_is_read_by_so_many_calls_at_a_time() -> None:
    count = 2 * TOGETHER + 3
    replies = [f"Fact {number}." for number in range(count)]
    policy, _ = ask(*replies, LAST, about=memory([f"Text {number}. " for number in range(count)]), note=900)
    assert policy.rounds == [TOGETHER, TOGETHER, 3, 1]
    assert set(notes(policy.calls)[:-1]) == {EMPTY}
    assert notes(policy.calls)[-1] == " ".join(replies)


def test_recorded_replies_are_not_asked_for_again() -> None:
    _, whole = ask("", BORN, "", SEA, "", MET, LAST, passes=2)
    recorded: list[Step | None] = [*whole.steps[:6]]
    recorded[1] = recorded[5] = None
    policy = scripted(BORN, MET, LAST)
    system = Recurrent.of({"parallel": True, "passes": 2})
    again = answer(Job(system, memory(), QUESTION, recorded=tuple(recorded)), policy)
    assert (again.steps, again.answer) == (whole.steps, whole.answer)
    assert policy.rounds == [1, 1, 1]


def test_an_endpoint_gets_the_calls_of_a_round_at_the_same_time(chat_server: ChatServer) -> None:
    together = threading.Barrier(3)

    def wait(body: dict[str, Any]) -> None:
        if "Notes on a text" not in body["messages"][0]["content"]:
            together.wait(SECONDS)

    chat_server.before, chat_server.usual = wait, says(LAST)
    policy = EndpointPolicy(EndpointModel(chat_server.url, "some-model"), timeout=SECONDS)
    system = Recurrent.of({"parallel": True, "chat_template": "message"})
    trace = answer(Job(system, memory(), QUESTION), policy)
    assert (trace.failure, trace.cost.calls, chat_server.most) == (None, 4, 3)


def test_training_and_costs_are_those_of_a_reading_in_sequence(backbone: Backbone) -> None:
    span = Span(0, len(BORN))
    sample = Sample("almanac", Document("a", "".join(TEXTS)), QUESTION, ("Velm",), evidence=(span,), support=(BORN,))
    sequence = Recurrent.of({"chunk": 6, "passes": 2})
    parallel = sequence.changed(parallel=True)
    assert parallel.script(sample, backbone, "recall").steps == sequence.script(sample, backbone, "recall").steps
    assert parallel.footprint(600) == sequence.footprint(600)
    assert parallel.record({}) == sequence.record({})


@pytest.mark.parametrize("chat_template", ["flat", "chatml"])
def test_a_call_is_rendered_like_an_update(backbone: Backbone, chat_template: str) -> None:
    system = Recurrent.of({"chunk": 8, "note": 16, "chat_template": chat_template, "parallel": True})
    about = replace(memory(), blocks=list(system.compress([Document("a.txt", "".join(TEXTS))], backbone)))
    calls = next(system.answer(about, QUESTION))
    assert len(calls) == len(about.blocks) > 2
    for call in calls:
        assert system.render(about, call, backbone) == system.render(about, replace(call, purpose="update"), backbone)
