"""A bank with a damaged block answers from the others and says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scripted_policy import ScriptedPolicy

from memfold.backbone.model import Backbone
from memfold.backbone.policy import LocalPolicy
from memfold.core.document import Document
from memfold.core.errors import DataError
from memfold.core.job import Job
from memfold.core.prompt import ABSENT
from memfold.core.scheduler import answer
from memfold.core.types import BlockRef, Call, HeadScore, Memory, Reply, Trace
from memfold.memory import open_memory, save_memory
from memfold.systems.kvbank.system import Kvbank
from memfold.systems.shared.folding import fold

TEXT = "Ada was born in Velm. The mill of Tor stands by the river. Bel has 41 sheep, and a boat. " * 3
QUESTION = "Where was Ada born?"
SETTINGS = {"chunk": 32, "compressor": "recent", "style": "bare", "note": 8, "max_tokens": 8}


class Damaged:
    """Stands in for the stored slots of a damaged block, and counts how often they are checked."""

    shape = (8, 64)

    def __init__(self) -> None:
        self.checks = 0

    def check(self) -> None:
        self.checks += 1
        raise DataError("a.fold: the slots of block 2 were altered")

    def read(self) -> torch.Tensor:
        raise AssertionError("damaged slots are never read")


@pytest.fixture(scope="module")
def whole(backbone: Backbone) -> Memory:
    (memory,) = fold(Kvbank.of(SETTINGS), [Document("a.txt", text=TEXT)], backbone)
    assert len(memory.blocks) == 5
    return memory


def without(memory: Memory, *damaged: int) -> tuple[Memory, dict[int, Damaged]]:
    stored = {index: Damaged() for index in damaged}
    blocks = [replace(block, slots=stored.get(block.index, block.slots)) for block in memory.blocks]
    return replace(memory, blocks=blocks), stored


def block_of(call: Call) -> int | None:
    return next((part.index for part in call.parts if isinstance(part, BlockRef)), None)


def opening(*opened: int) -> Callable[[Call], Reply | str]:
    """A gate that opens some blocks, and notes that name their block."""

    def reply(call: Call) -> Reply | str:
        if isinstance(call.wants, HeadScore):
            return Reply(score=2.0 if block_of(call) in opened else -2.0)
        return f"note of {block_of(call)}" if call.purpose == "update" else "Velm"

    return reply


def asked(memory: Memory, reply: Callable[[Call], Reply | str], **settings: object) -> tuple[Trace, list[Call]]:
    policy = ScriptedPolicy(reply)
    return answer(Job(Kvbank.of(SETTINGS | settings), memory, QUESTION), policy), policy.calls


def warning(trace: Trace) -> str | None:
    assert trace.answer is not None, trace.failure
    return trace.answer.warning


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("gate", ["head", "ask", "open"])
def test_a_damaged_block_is_skipped_and_named(whole: Memory, gate: str, passes: int) -> None:
    memory, _ = without(whole, 2)

    def reply(call: Call) -> Reply | str:
        if call.purpose == "gate":
            return Reply(score=2.0, logprobs=(-1.0,))
        return f"note of {block_of(call)}"

    trace, calls = asked(memory, reply, gate=gate, threshold=0.4, passes=passes)
    assert [block_of(call) for call in calls if call.purpose == "update"] == [0, 1, 3, 4]
    assert 2 not in map(block_of, calls)
    start, end = whole.blocks[2].char_start, whole.blocks[2].char_end
    assert warning(trace) == (
        f"block 2 (a.txt, characters {start} to {end}) is damaged and was not read; fold the document again"
    )


def test_a_sound_bank_has_no_warning(whole: Memory) -> None:
    trace, _ = asked(whole, opening(1), gate="head")
    assert warning(trace) is None


def test_several_damaged_blocks_are_named_together(whole: Memory) -> None:
    memory, _ = without(whole, 0, 1, 3)
    trace, calls = asked(memory, opening(2, 4), gate="head")
    assert [block_of(call) for call in calls if call.purpose == "update"] == [2, 4]
    text = warning(trace) or ""
    assert text.startswith("block 0 (a.txt, characters 0 to ")
    assert [f"block {index} (" in text for index in range(5)] == [True, True, False, True, False]
    assert text.endswith(" are damaged and were not read; fold the document again")


def test_the_gate_that_opens_nothing_else_says_so_with_the_warning(whole: Memory) -> None:
    memory, _ = without(whole, 2)
    trace, _ = asked(memory, opening(2), gate="head")
    assert trace.answer is not None
    assert trace.answer.text == ABSENT
    assert "none of 4 blocks" in trace.answer.reply
    assert "block 2" in (trace.answer.warning or "")


def test_a_bank_without_a_sound_block_is_refused(whole: Memory) -> None:
    memory, _ = without(whole, *range(5))
    for gate in ("head", "open"):
        for reading in ("note", "block"):
            trace, calls = asked(memory, opening(), gate=gate, reading=reading)
            assert calls == []
            assert trace.failure is not None
            assert str(trace.failure.exception()).startswith("none of the blocks can be read: a.fold: the slots of")


def test_only_blocks_that_are_read_are_checked(whole: Memory) -> None:
    """BM25 sees the text: a block that it does not open stays unread, and so do slots where text is read instead."""
    memory, stored = without(whole, 0, 4)
    for block in memory.blocks:
        block.__dict__["text"] = "Ada was born in Velm." if block.index == 4 else "Nothing to see here."
    trace, calls = asked(memory, opening(), gate="bm25", most=1)
    assert [stored[0].checks, stored[4].checks > 0] == [0, True]
    assert [call.purpose for call in calls] == []
    assert "block 4 (" in (warning(trace) or "")
    trace, calls = asked(memory, opening(), gate="bm25", most=1, reading="text")
    assert [block_of(call) for call in calls] == [4, None]
    assert warning(trace) is None


def test_the_best_sound_block_is_read_where_one_block_is(whole: Memory) -> None:
    memory, _ = without(whole, 3)

    def reply(call: Call) -> Reply | str:
        return Reply(score=float(block_of(call) or 0)) if isinstance(call.wants, HeadScore) else "Velm"

    for gate, expected in (("head", 4), ("open", 0)):
        trace, calls = asked(memory, reply, gate=gate, reading="block")
        assert [block_of(call) for call in calls if call.purpose == "answer"] == [expected]
        assert ("block 3 (" in (warning(trace) or "")) is (gate == "head")


def test_the_others_are_read_as_from_a_bank_without_the_block(
    whole: Memory, backbone: Backbone, tmp_path: Path
) -> None:
    """From a file with an altered byte, by the model itself."""
    path = tmp_path / "a.fold"
    save_memory(replace(whole, sha256=("0" * 64,)), path, dtype="float32")
    opened, data = open_memory(path), bytearray(path.read_bytes())
    assert opened.blocks[2].slots is not None
    place = data.find(opened.blocks[2].slots.numpy().tobytes())
    data[place + 9] ^= 4
    path.write_bytes(data)
    system, policy = Kvbank.of(SETTINGS | {"gate": "open"}), LocalPolicy(backbone)
    found = answer(Job(system, open_memory(path), QUESTION), policy)
    rest = replace(whole, blocks=[block for block in whole.blocks if block.index != 2])
    expected = answer(Job(system, rest, QUESTION), policy)
    assert found.failure is None, found.failure
    assert [step.reply.tokens for step in found.steps] == [step.reply.tokens for step in expected.steps]
    assert "block 2 (a.txt" in (warning(found) or "")
