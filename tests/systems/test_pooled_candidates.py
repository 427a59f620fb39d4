"""Pooled memory of which a question reads some blocks: which ones, and that the others might as well not be there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from scripted_policy import scripted

from memfold.backbone.model import Backbone
from memfold.backbone.policy import LocalPolicy
from memfold.backbone.positions import PositionLimit
from memfold.backbone.score import logprobs
from memfold.core.document import Document
from memfold.core.errors import ConfigError, DataError
from memfold.core.job import Job
from memfold.core.scheduler import answer
from memfold.core.system import Rendered
from memfold.core.types import BlockRef, Call, Memory, Sample, Text
from memfold.evaluation.folding import Foldings
from memfold.systems.pooled.system import Pooled
from memfold.systems.shared.folding import fold

SENTENCES = (
    "Ada was born in Velm. ",
    "Lor bakes bread. ",
    "The code of the vault is KX-41. ",
    "Bel has a boat. ",
    "Tarn is a long river. ",
)
TEXT = "".join(SENTENCES)
QUESTION = "Ada and her boat?"  # words of the first sentence and of the fourth
SMALL: dict[str, Any] = {"ratio": 4, "window": 0, "mask": "causal", "chunk": 8}
LAYOUTS = [
    {"positions": "strided", "wrapper": "slot"},
    {"positions": "strided", "wrapper": "span"},
    {"positions": "strided", "groups": "sentence", "wrapper": "none"},
    {"positions": "consecutive", "wrapper": "slot"},
    {"positions": "randomised", "wrapper": "span", "draw": 3},
]


def made(backbone: Backbone, text: str = TEXT, **settings: Any) -> tuple[Pooled, Memory]:
    system = Pooled.of({**SMALL, **settings})
    (memory,) = fold(system, [Document("a.txt", text=text)], backbone)
    return system, memory


def call_of(system: Pooled, memory: Memory, question: str = QUESTION) -> Call:
    (call,) = next(system.answer(memory, question))
    return call


def read(call: Call) -> list[int]:
    return [part.index for part in call.parts if isinstance(part, BlockRef)]


def alone(memory: Memory, numbers: Sequence[int]) -> Memory:
    """The memory that has these blocks and no others."""
    blocks = [memory.blocks[number].moved(index=index) for index, number in enumerate(numbers)]
    return replace(memory, blocks=blocks)


def assert_equal(left: Rendered, right: Rendered) -> None:
    assert (left.tokens, left.positions, left.lengths) == (right.tokens, right.positions, right.lengths)
    assert left.memory_positions == right.memory_positions
    assert left.slots is not None
    assert right.slots is not None
    assert torch.equal(left.slots, right.slots)


def numbers_of(memory: Memory, *words: str) -> list[int]:
    """The blocks that have one of these words."""
    return [block.index for block in memory.blocks if any(word in (block.read() or "") for word in words)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_as_many_candidates_as_blocks_are_the_whole_memory(backbone: Backbone, layout: dict[str, Any]) -> None:
    system, memory = made(backbone, **layout)
    whole = call_of(system, memory)
    for count in (len(memory.blocks), 1000):
        searching = system.changed(candidates=count)
        call = call_of(searching, memory)
        assert call == whole
        assert_equal(searching.render(memory, call, backbone), system.render(memory, whole, backbone))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_candidates_are_laid_out_as_if_the_memory_had_no_other_blocks(
    backbone: Backbone, layout: dict[str, Any], count: int
) -> None:
    system, memory = made(backbone, **layout)
    searching = system.changed(candidates=count)
    call = call_of(searching, memory)
    chosen = read(call)
    assert len(chosen) == count < len(memory.blocks)
    assert chosen == sorted(chosen)
    assert chosen != list(range(count)) or count == 1, "they are not the first ones"
    others = alone(memory, chosen)
    rendered = searching.render(memory, call, backbone)
    assert_equal(rendered, system.render(others, call_of(system, others), backbone))
    assert_equal(rendered, searching.render(others, call_of(searching, others), backbone))


def test_the_blocks_with_the_words_of_the_question_are_read(backbone: Backbone) -> None:
    system, memory = made(backbone, candidates=2)
    ada, boat = numbers_of(memory, "Ada")[0], numbers_of(memory, "boat")[0]
    assert read(call_of(system, memory)) == [ada, boat]
    assert read(call_of(system.changed(candidates=1), memory, "A boat?")) == [boat], "the same index of the same memory"


def test_blocks_without_a_word_of_the_question_fill_up_the_number_from_the_beginning(backbone: Backbone) -> None:
    system, memory = made(backbone, candidates=3)
    (boat,) = numbers_of(memory, "boat")
    assert boat > 2
    assert read(call_of(system, memory, "Boat?")) == [0, 1, boat]
    assert read(call_of(system, memory, "Zzz?")) == [0, 1, 2]
    assert answer(Job(system, memory, "Zzz?"), LocalPolicy(backbone)).answer is not None


def test_a_memory_without_text_is_refused(backbone: Backbone) -> None:
    system, memory = made(backbone, candidates=2)
    memory.blocks = [replace(block, text=None) for block in memory.blocks]
    trace = answer(Job(system, memory, QUESTION), LocalPolicy(backbone))
    assert trace.failure is not None
    with pytest.raises(DataError, match=r"holds no text .* without --no-text, or read all blocks \(--set candidates=0"):
        raise trace.failure.exception()
    assert answer(Job(system.changed(candidates=0), memory, QUESTION), LocalPolicy(backbone)).failure is None


# Memories that are longer than the model can read.


@pytest.mark.parametrize("positions", ["strided", "consecutive"])
def test_a_memory_longer_than_the_model_is_answered_from_its_candidates(
    new_backbone: Callable[..., Backbone], positions: str
) -> None:
    backbone = new_backbone()
    backbone.position_limit = PositionLimit(400, "its table of positions ends there")
    system, memory = made(backbone, TEXT * 60, positions=positions, chunk=32)
    assert memory.slot_count > 400
    trace = answer(Job(system, memory, QUESTION), LocalPolicy(backbone))
    assert trace.failure is not None
    assert trace.failure.message.startswith(f"the slots of {len(memory.blocks)} blocks and the prompt take ")
    with pytest.raises(DataError, match=r"'qwen3' has 400: its table of .* read fewer blocks \(--set candidates=N"):
        raise trace.failure.exception()
    searching = system.changed(candidates=4)
    trace = answer(Job(searching, memory, QUESTION), LocalPolicy(backbone))
    assert trace.answer is not None
    most = searching.capabilities.call_positions
    assert most == 4 * 8 + 2
    assert trace.cost.positions == most
    assert (trace.cost.document_tokens, trace.cost.slots) == (memory.token_count, memory.slot_count)


def test_what_candidates_cost() -> None:
    whole, searching = Pooled.of(SMALL), Pooled.of({**SMALL, "candidates": 3})
    assert searching.footprint(20) == whole.footprint(20)
    assert searching.footprint(24) == whole.footprint(24)
    assert searching.footprint(2400) == replace(whole.footprint(2400), positions=24 // 4 + 2)
    assert searching.footprint(0) == whole.footprint(0)
    assert whole.capabilities.call_positions is None
    assert searching.capabilities.call_positions == 24 // 4 + 2
    assert searching.changed(groups="sentence").capabilities.call_positions == 24 // 2 + 2, "groups of 2 to 6 tokens"
    assert searching.doubting(300).capabilities.call_positions == 300
    assert (whole.capabilities.rereads_text, searching.capabilities.rereads_text) == (False, True)
    assert whole.effective_ratio(2400) is not None
    assert searching.effective_ratio(2400) is None


# What follows a reply to some of the blocks.


def test_what_is_unfolded_stands_where_the_document_has_it(backbone: Backbone) -> None:
    """Also if it stands in a block that was not read: a search in the text costs no slots."""
    system, memory = made(backbone, candidates=1, unfold=30)
    policy = scripted(r" The code is KX-14. \boxed{KX-14}", rf" {SENTENCES[2].strip()} \boxed{{KX-41}}")
    trace = answer(Job(system, memory, "Has Bel a boat?"), policy)
    first, second = policy.calls
    assert read(first) == numbers_of(memory, "boat")
    assert not set(read(first)) & set(numbers_of(memory, "KX"))
    passages = second.parts[1]
    assert isinstance(passages, Text)
    assert SENTENCES[2].strip() in passages.text
    assert trace.answer is not None
    cited = trace.answer.citations[0]
    assert (cited.source, cited.text) == ("a.txt", SENTENCES[2].strip())
    assert TEXT[cited.start : cited.end] == cited.text


def test_a_doubtful_reply_is_read_again(backbone: Backbone) -> None:
    system, memory = made(backbone, candidates=1, doubt=12)
    assert len(_calls(system, memory, r" Bel has a boat. \boxed{a boat}")) == 1
    assert len(_calls(system, memory, r" Bel has a mill. \boxed{a mill}")) == 2


def _calls(system: Pooled, memory: Memory, reply: str) -> list[Call]:
    policy = scripted(reply, r" Bel has a boat. \boxed{a boat}")
    answer(Job(system, memory, "What has Bel?"), policy)
    return policy.calls


def test_a_slot_of_a_candidate_stands_for_its_place_in_the_document(backbone: Backbone) -> None:
    system, memory = made(backbone, candidates=2, cite="attention")
    call, slot = call_of(system, memory), 0
    for number in read(call):
        block = memory.blocks[number]
        spans = [system.passage(memory, call, slot + each, backbone).span for each in range(block.slot_count)]
        assert (spans[0].start, spans[-1].end) == (block.char_start, block.char_end)
        slot += block.slot_count
    with pytest.raises(IndexError, match=f"the call has {slot} slots"):
        system.passage(memory, call, slot, backbone)
    trace = answer(Job(system, memory, QUESTION), LocalPolicy(backbone))
    assert trace.answer is not None
    assert trace.answer.citations
    chosen = [memory.blocks[number] for number in read(call)]
    for cited in trace.answer.citations:
        assert any(block.char_start < cited.end and cited.start < block.char_end for block in chosen)
        assert TEXT[cited.start : cited.end] == cited.text


# Training and evaluation.


def test_supervised_training_reads_whole_memories(backbone: Backbone) -> None:
    sample = Sample("almanac", Document("a.txt", text=TEXT), QUESTION, ("Velm",))
    with pytest.raises(ConfigError, match="candidates = 2 is not possible; allowed: 0 where the right reply is given"):
        Pooled.of({**SMALL, "candidates": 2}).script(sample, backbone, "recall")
    with pytest.raises(ConfigError, match="candidates = -1 is not possible; allowed: 1 block or more, or 0 for all"):
        Pooled.of({"candidates": -1})


def test_reinforcement_learning_scores_the_blocks_that_were_read(backbone: Backbone) -> None:
    system, memory = made(backbone, candidates=2)
    trace = answer(Job(system, memory, QUESTION), LocalPolicy(backbone))
    (step,) = trace.steps
    for held in (Document("a.txt", text=TEXT), memory):
        scores = logprobs(backbone, system, [(held, [trace])])
        assert scores.logprobs.tolist() == pytest.approx(step.reply.logprobs, abs=1e-4)


def test_systems_that_read_other_numbers_of_blocks_share_a_folding(backbone: Backbone) -> None:
    foldings = Foldings(backbone)
    shared = foldings.of(Pooled.of(SMALL))
    assert foldings.of(Pooled.of({**SMALL, "candidates": 2})) is shared
    assert foldings.of(Pooled.of({**SMALL, "candidates": 2, "chunk": 16})) is not shared
