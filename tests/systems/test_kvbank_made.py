"""A bank that keeps only its text makes its blocks when they are read, and answers as one that stores them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from memfold.backbone.model import Backbone
from memfold.backbone.policy import LocalPolicy
from memfold.core.document import Document
from memfold.core.errors import ConfigError, DataError
from memfold.core.job import Job
from memfold.core.scheduler import answer
from memfold.core.types import Block, HeadScore, Memory, Trace
from memfold.memory import describe, open_memory, save_memory
from memfold.systems.kvbank import compressor, made
from memfold.systems.kvbank import system as system_module
from memfold.systems.kvbank.made import MadeBlocks
from memfold.systems.kvbank.system import Kvbank
from memfold.systems.shared.folding import fold

MakeBackbone = Callable[..., Backbone]
TEXT = "Ada was born in Velm. The mill of Tor stands by the river. Bel has 41 sheep, and a boat. " * 4
QUESTION = "Where was Ada born?"
SETTINGS: dict[str, Any] = {"chunk": 32, "note": 8, "max_tokens": 8, "style": "bare", "compressor": "trained"}


@pytest.fixture(autouse=True)
def short_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks in a pass, and several passes."""
    monkeypatch.setattr(system_module, "BATCH_TOKENS", 70)
    monkeypatch.setattr(compressor, "BATCH_TOKENS", 70)


@pytest.fixture
def compressed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many chunks each call of the compressor has got so far."""
    counts: list[int] = []
    plain = Kvbank._slots

    def counted(self: Kvbank, backbone: Backbone, chunks: Sequence[Any], *rest: Any) -> list[Tensor]:
        counts.append(len(chunks))
        return plain(self, backbone, chunks, *rest)

    monkeypatch.setattr(Kvbank, "_slots", counted)
    return counts


def bank(backbone: Backbone, **settings: object) -> tuple[Kvbank, Memory]:
    """One memory of two documents."""
    system = Kvbank.of(SETTINGS | settings)
    memories = fold(system, [Document("a", text=TEXT), Document("b", text=TEXT[40:200])], backbone)
    blocks = [block for memory in memories for block in memory.blocks]
    sources = [(number, block) for number, memory in enumerate(memories) for block in memory.blocks]
    blocks = [block.moved(index=index, source=source) for index, (source, block) in enumerate(sources)]
    return system, replace(memories[0], name="both", sources=("a", "b"), blocks=blocks, sha256=("0" * 64, "1" * 64))


def asked(system: Kvbank, memory: Memory, backbone: Backbone) -> Trace:
    trace = answer(Job(system, memory, QUESTION), LocalPolicy(backbone))
    assert trace.failure is None, trace.failure
    return trace


def replies(trace: Trace) -> list[tuple[Any, ...]]:
    """All that depends on the numbers of a block, bit for bit."""
    return [(step.call, step.reply.tokens, step.reply.logprobs, step.reply.score) for step in trace.steps]


def place(block: Block) -> tuple[object, ...]:
    return block.source, block.token_start, block.token_end, block.char_start, block.char_end, block.read()


# --- equality


@pytest.mark.parametrize("borders", ["sentence", "exact"])
def test_text_is_stored_with_the_borders_of_the_blocks(trained: Backbone, compressed: list[int], borders: str) -> None:
    _, stored = bank(trained, borders=borders)
    compressed.clear()
    _, text = bank(trained, borders=borders, store="text")
    assert compressed == []
    assert [place(block) for block in text.blocks] == [place(block) for block in stored.blocks]
    assert len(text.blocks) > 6
    assert all(block.slots is None for block in text.blocks)


@pytest.mark.parametrize("changes", [{}, {"positions": "original"}, {"window": 8}, {"borders": "exact"}], ids=str)
@pytest.mark.parametrize("gate", ["head", "ask"])
def test_blocks_that_are_made_are_those_that_are_stored(
    trained: Backbone, gate: str, changes: dict[str, object]
) -> None:
    """Bit for bit: the scores of the gate, the notes and the answer, with the default threshold and with a low one."""
    for threshold in (0.5, 0.01):
        settings = {"gate": gate, "threshold": threshold, "passes": 2, **changes}
        system, stored = bank(trained, **settings)
        _, text = bank(trained, store="text", **settings)
        expected = asked(system, stored, trained)
        assert len(expected.steps) >= len(stored.blocks)
        assert replies(asked(system.changed(store="text"), text, trained)) == replies(expected)


@pytest.mark.parametrize("method", ["reconstruction", "expected", "norm"])
def test_methods_without_training_make_the_same_blocks(backbone: Backbone, method: str) -> None:
    system, stored = bank(backbone, compressor=method, gate="ask", threshold=0.01)
    _, text = bank(backbone, compressor=method, gate="ask", threshold=0.01, store="text")
    assert replies(asked(system.changed(store="text"), text, backbone)) == replies(asked(system, stored, backbone))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "int8"])
def test_a_file_of_text_answers_as_a_file_of_blocks(trained: Backbone, tmp_path: Path, dtype: str) -> None:
    """What is made is rounded as the file would have stored it."""
    found = []
    for store in ("blocks", "text"):
        system, memory = bank(trained, gate="head", threshold=0.01, store=store)
        memory.settings = memory.settings | {"slot_parts": system.slot_parts(trained)}
        save_memory(memory, tmp_path / store, dtype=dtype)
        opened = replace(open_memory(tmp_path / store), name="m")
        system.check_memory(opened)
        found.append(replies(asked(system, opened, trained)))
    assert found[0] == found[1]
    assert any(score for *_, score in found[0])
    sizes = {store: describe(tmp_path / store)["bytes"] for store in ("blocks", "text")}
    assert sizes["text"]["slots"] == 0 < sizes["blocks"]["slots"]
    assert sizes["text"]["text"] == sizes["blocks"]["text"]


@pytest.mark.parametrize("settings", [{"gate": "bm25", "most": 2}, {"gate": "head", "candidates": 2}], ids=str)
def test_where_few_blocks_are_needed_each_is_made_alone(
    trained: Backbone, compressed: list[int], settings: dict[str, object]
) -> None:
    system, stored = bank(trained, threshold=0.01, **settings)
    _, text = bank(trained, threshold=0.01, store="text", **settings)
    expected = asked(system, stored, trained)
    compressed.clear()
    trace = asked(system.changed(store="text"), text, trained)
    assert compressed == [1, 1]
    assert [step.reply.tokens for step in trace.steps] == [step.reply.tokens for step in expected.steps]
    for one, other in zip(trace.steps, expected.steps, strict=True):
        assert one.call == other.call
        if isinstance(one.call.wants, HeadScore):
            assert one.reply.score == pytest.approx(other.reply.score, abs=1e-4)


# --- what is kept


def test_a_block_is_made_once_while_it_is_kept(trained: Backbone, compressed: list[int]) -> None:
    system, text = bank(trained, store="text", gate="head", threshold=0.01, ahead=1)
    count = len(text.blocks)
    first = asked(system, text, trained)
    assert sum(compressed) == count
    assert max(compressed) > 1, "those that are folded together are made together"
    assert replies(asked(system, text, trained)) == replies(first)
    assert sum(compressed) == count
    poor = system.changed(gigabytes=0.0, ahead=1)
    empty = replace(text)  # a copy has nothing made
    compressed.clear()
    assert replies(asked(poor, empty, trained)) == replies(first)
    assert sum(compressed) == count, "in the order of the text, one pass at a time is enough"
    assert replies(asked(poor, empty, trained)) == replies(first)
    assert sum(compressed) > count


def chunks_of_one_token(count: int) -> Memory:
    """A memory of text whose blocks have one token each; the token is the number of the character."""
    text = "abcdefgh"[:count]
    blocks = [Block(n, 0, n, n + 1, n, n + 1, text=letter) for n, letter in enumerate(text)]
    return Memory("m", "kvbank", {}, "", ("a",), blocks)


def one_by_one(text: str) -> tuple[list[int], list[tuple[int, int]]]:
    return [ord(letter) - ord("a") for letter in text], [(n, n + 1) for n in range(len(text))]


@pytest.fixture
def recorded() -> tuple[list[list[int]], Callable[[list[Sequence[int]]], list[Tensor]]]:
    """The chunks of each pass, and a compressor that makes slots of 8 bytes for each."""
    passes: list[list[int]] = []

    def compress(chunks: list[Sequence[int]]) -> list[Tensor]:
        passes.append([token for chunk in chunks for token in chunk])
        return [torch.full((1, 2), float(chunk[0])) for chunk in chunks]

    return passes, compress


def test_passes_are_those_of_folding_and_the_blocks_used_last_are_kept(recorded: Any) -> None:
    passes, compress = recorded
    blocks = MadeBlocks(chunks_of_one_token(8), one_by_one, 3)
    read: list[float] = []
    for index in (1, 0, 7, 1, 4, 2, 6, 3):
        read.append(float(blocks.slots(index, compress, 40.0, False)[0, 0]))
    assert read == [1, 0, 7, 1, 4, 2, 6, 3]
    # [0 1 2], then [6 7]: 40 bytes; [3 4 5] takes the place of 2, 0 and 6, which were used before 7 and 1
    assert passes == [[0, 1, 2], [6, 7], [3, 4, 5], [0, 1, 2], [6, 7], [3, 4, 5]]


def test_a_pass_is_kept_whole_however_little_room_there_is(recorded: Any) -> None:
    passes, compress = recorded
    blocks = MadeBlocks(chunks_of_one_token(6), one_by_one, 3)
    for index in (0, 1, 2, 0, 3, 4, 5, 5, 3):
        blocks.slots(index, compress, 0.0, False)
    assert passes == [[0, 1, 2], [3, 4, 5]]
    alone = MadeBlocks(chunks_of_one_token(6), one_by_one, 3)
    for index in (0, 0, 4, 0):
        alone.slots(index, compress, 8.0, True)
    assert passes[2:] == [[0], [4], [0]]


def test_a_text_with_other_tokens_is_refused(recorded: Any) -> None:
    memory = chunks_of_one_token(4)
    blocks = MadeBlocks(memory, lambda text: one_by_one(text[1:]), 3)
    with pytest.raises(DataError, match="the text of a has 3 tokens, this memory was folded from 4; fold the document"):
        blocks.slots(0, recorded[1], 9.0, False)


# --- settings


def test_the_store_is_chosen_by_the_room_that_blocks_would_take(trained: Backbone) -> None:
    """In 16 bits: 2 bytes for each of the values of a slot, one slot for 4 tokens."""
    documents = [Document("a", text=TEXT), Document("b", text=TEXT)]
    tokens = 2 * len(trained.tokenize(TEXT)[0])
    needed = 2 * (Kvbank().slot_size(trained) or 0) * tokens / 4 / 10**9
    for gigabytes, expected in ((needed * 1.001, "blocks"), (needed * 0.999, "text"), (0, "text")):
        system = Kvbank.of({"store": "auto", "gigabytes": gigabytes})
        assert system.settled(documents, trained).fold.store == expected
        assert system.fold.store == "auto"
    assert Kvbank.of({"store": "blocks", "gigabytes": 0}).settled(documents, trained).fold.store == "blocks"
    (memory, _) = fold(Kvbank.of(SETTINGS | {"store": "auto", "gigabytes": 0}), documents, trained)
    assert (memory.settings["store"], memory.slot_count) == ("text", 0)


def test_what_is_made_later_is_not_trained(trained: Backbone) -> None:
    with pytest.raises(ConfigError, match="store = 'text' is not possible; allowed: 'blocks' in training"):
        Kvbank.of({"store": "text"}).prepare(trained)
    assert "store" not in Kvbank.of({"store": "blocks"}).record({})
    assert Kvbank.of({"store": "text"}).capabilities.rereads_text


@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_the_room_is_a_number_of_gigabytes(value: float) -> None:
    with pytest.raises(ConfigError, match="gigabytes"):
        Kvbank.of({"gigabytes": value})
    with pytest.raises(ConfigError, match="unknown store 'file'; known: auto, blocks, text"):
        Kvbank.of({"store": "file"})


def test_a_bank_without_slots_and_text_is_refused(trained: Backbone) -> None:
    system, text = bank(trained, store="text")
    for block in text.blocks:
        block.__dict__["text"] = None
    with pytest.raises(DataError, match="neither slots nor text"):
        system.check_memory(text)
    assert made.as_stored(torch.ones(1, 2), None, 1).dtype == torch.float32
