"""The recall of evidence blocks by rank, with a gate whose scores are known."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import gate_recall
import pytest

from memfold.backbone.model import Backbone
from memfold.core.document import text_chunks
from memfold.core.policy import Policy, Request
from memfold.core.types import BlockRef, Reply, Text
from memfold.systems.kvbank.system import Kvbank
from memfold.systems.shared.folding import fold
from memfold.systems.shared.notes import EMPTY
from memfold.tasks.almanac.spread import spread
from memfold.tasks.task import TaskOptions


@pytest.fixture
def arguments() -> argparse.Namespace:
    return argparse.Namespace(chunk=64, questions=6, seed=0)


def test_without_a_trained_gate_only_words_are_compared(backbone: Backbone, arguments: argparse.Namespace) -> None:
    rows = gate_recall.measure(backbone, 12, arguments)
    assert [(row["ranking"], row["questions"]) for row in rows] == [
        ("bm25", "all"),
        ("bm25", "one-hop"),
        ("bm25", "two-hop"),
    ]
    assert [row["recall"]["count"] for row in rows] == [6, 3, 3]
    assert 12 <= rows[0]["blocks_on_average"] <= 15  # short blocks are less full
    assert 8 / 15 / 2 < rows[0]["recall"]["low"] <= rows[0]["recall"]["value"] <= rows[0]["recall"]["high"] <= 1


def test_a_gate_that_follows_the_note_finds_what_one_without_does_not(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks have the score of their number; with a note, those that hold evidence have the highest."""
    (sample,) = spread(3, 1400, TaskOptions(kinds=("two-hop",)), backbone.encode)
    parts = list(text_chunks(sample.document, backbone.tokenize, 64))
    gold = gate_recall.gold_blocks(sample, parts)
    assert len(gold) == 2
    last = max(gold)
    asked: list[int] = []

    def replies(_: Policy, requests: Sequence[Request]) -> list[Reply]:
        scores = []
        for request in requests:
            block, prompt = request.call.parts[0], request.call.parts[-2]
            assert isinstance(block, BlockRef)
            assert isinstance(prompt, Text)
            noted = EMPTY not in prompt.text
            scores.append(Reply(score=float(100 if noted and block.index == last else -block.index)))
            asked.append(block.index)
        return scores

    monkeypatch.setattr(gate_recall, "complete", replies)
    system = Kvbank.of({"chunk": 64, "gate": "head", "passes": 2})
    (memory,) = fold(system, [sample.document], backbone)
    ranked = gate_recall.by_gate(system, memory, sample, parts, backbone)
    assert ranked["gate, question"] == list(range(8))
    assert ranked["gate, question and note"] == [last, *(n for n in range(9) if n != last)][:8]
    assert len(asked) < 3 * len(parts), "a block is scored once with each note"
