"""The blocks that the gate sees next are read while it scores, each once, and in another thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from threading import Thread, current_thread

import pytest
import torch
from scripted_policy import ScriptedPolicy

from memfold.backbone.model import Backbone
from memfold.core.document import Document
from memfold.core.errors import DataError
from memfold.core.job import Job
from memfold.core.scheduler import answer
from memfold.core.types import Call, Memory, Reply
from memfold.systems.kvbank.prefetch import prefetch
from memfold.systems.kvbank.system import Kvbank
from memfold.systems.shared.folding import fold

TEXT = "Ada was born in Velm. The mill of Tor stands by the river. Bel has 41 sheep, and a boat. " * 6
SETTINGS = {"chunk": 32, "compressor": "recent", "style": "bare", "note": 8, "max_tokens": 8, "gate": "head"}


class Stored:
    """Stands in for stored slots, and records which threads check them."""

    shape = (8, 64)

    def __init__(self, slots: torch.Tensor | None, problem: str = "") -> None:
        self.slots, self.problem = slots, problem
        self.threads: list[Thread] = []

    def check(self) -> None:
        self.threads.append(current_thread())
        if self.problem:
            raise DataError(self.problem)

    def read(self) -> torch.Tensor | None:
        return self.slots


def stored(backbone: Backbone, *damaged: int) -> tuple[Memory, list[Stored]]:
    (memory,) = fold(Kvbank.of(SETTINGS), [Document("a.txt", text=TEXT)], backbone)
    held = [Stored(block.slots, "altered" if block.index in damaged else "") for block in memory.blocks]
    blocks = [replace(block, slots=slots) for block, slots in zip(memory.blocks, held, strict=True)]
    return replace(memory, blocks=blocks), held


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread ends before the one that starts it goes on."""

    class Joined(Thread):
        def start(self) -> None:
            super().start()
            self.join()

    monkeypatch.setattr("memfold.systems.kvbank.prefetch.Thread", Joined)


def scored(memory: Memory, score: Callable[[int], float]) -> list[int]:
    """Ask a question, and return the blocks that the gate saw."""
    seen = list[int]()

    def reply(call: Call) -> Reply | str:
        if call.purpose != "gate":
            return "note"
        index = next(part.index for part in call.parts if hasattr(part, "index"))
        seen.append(index)
        return Reply(score=score(index))

    answer(Job(Kvbank.of(SETTINGS), memory, "Where was Ada born?"), ScriptedPolicy(reply))
    return seen


@pytest.mark.usefixtures("at_once")
def test_every_block_but_the_first_is_read_before_the_gate_gets_to_it(backbone: Backbone) -> None:
    memory, held = stored(backbone)
    assert len(held) > 6
    assert scored(memory, lambda _: -2.0) == list(range(len(held)))
    main = current_thread()
    assert held[0].threads == [main]
    assert all(slots.threads[0] is not main and slots.threads[1:] == [main] for slots in held[1:])


@pytest.mark.usefixtures("at_once")
def test_a_damaged_block_that_was_read_ahead_is_still_reported(backbone: Backbone) -> None:
    memory, held = stored(backbone, 2)
    assert 2 not in scored(memory, lambda _: -2.0)
    assert held[2].threads[0] is not current_thread()


def test_blocks_in_ram_start_no_thread(backbone: Backbone) -> None:
    (memory,) = fold(Kvbank.of(SETTINGS), [Document("a.txt", text=TEXT)], backbone)
    assert prefetch(memory, [0, 1]) is None


def test_a_block_is_read_ahead_once(backbone: Backbone) -> None:
    memory, held = stored(backbone)
    first, second = prefetch(memory, [1, 2]), prefetch(memory, [2, 3])
    assert first is not None
    assert second is not None
    first.join()
    second.join()
    assert prefetch(memory, [1, 3]) is None
    assert [len(slots.threads) for slots in held[:5]] == [0, 1, 1, 1, 0]
