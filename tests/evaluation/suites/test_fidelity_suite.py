"""What the slots of a memory hold: calls over a few slots each, and the figures made of their replies."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scripted_policy import ScriptedPolicy

from memfold.backbone.model import Backbone
from memfold.core.document import fixed_lengths
from memfold.core.errors import ConfigError
from memfold.core.policy import Request
from memfold.core.types import Block, BlockRef, Likelihood, Memory, Reply
from memfold.evaluation.runner import Evaluation, run
from memfold.evaluation.suite import Options
from memfold.evaluation.suites.fidelity import KINDS, PLACES, SLOTS, FidelitySuite, divide

Evaluate = Callable[..., Evaluation]
SMALL = {"suite": "fidelity", "lengths": (64,), "questions": 3, "splits": ("in",)}


class Copies(ScriptedPolicy):
    """Writes the tokens that each call's own likelihood request names; `spoil` changes the tokens of a reply."""

    def __init__(self, evaluation: Evaluation, spoil: Callable[[list[int]], list[int]] = lambda tokens: tokens) -> None:
        super().__init__(reply=lambda call: "")
        self.model, self.end, self.spoil = evaluation.model, evaluation.model.end_token, spoil
        self.cases = list(evaluation.suite.cases(evaluation.options, evaluation.model))

    def answer(self, request: Request) -> Reply:
        wants = request.call.wants
        if isinstance(wants, Likelihood):
            return Reply(tokens=wants.tokens, logprobs=(-0.25,) * len(wants.tokens))
        (index,) = (part.index for part in request.call.parts if isinstance(part, BlockRef))
        block = request.memory.blocks[index]
        tokens = self.cases[0].sample.document.tokens or ()
        written = self.spoil(list(tokens[block.token_start : block.token_end]))
        text = self.model.decode([token for token in written if token >= 0])
        return Reply(text, (*written, self.end), positions=block.slot_count)


def figures(evaluation: Evaluation, folder: Path, policy: ScriptedPolicy) -> dict[str, dict[str, float]]:
    return {record.kind: record.figures for record in run(evaluation, folder, policy)}


@pytest.mark.parametrize("label", ["pooled:4", "pooled:4/groups=sentence"])
def test_a_perfect_copy_is_whole_everywhere(evaluate: Evaluate, tmp_path: Path, label: str) -> None:
    evaluation = evaluate(label, **SMALL)
    found = figures(evaluation, tmp_path, Copies(evaluation))
    assert set(found) == {str(slots) for slots in SLOTS}
    for values in found.values():
        assert values.pop("loss") == 0.25
        assert set(values.values()) == {1.0}


def test_each_call_reads_as_many_slots_as_the_case_says(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluation = evaluate("pooled:4", **SMALL)
    policy = Copies(evaluation)
    records = run(evaluation, tmp_path, policy)
    assert [record.cost.positions for record in records] == list(SLOTS)
    assert [record.cost.calls for record in records] == [2 * 16, 2 * 4, 2 * 1]
    assert [record.cost.document_tokens for record in records] == [64, 64, 64]


def test_a_wrong_token_spoils_its_group_and_place_alone(evaluate: Evaluate, tmp_path: Path) -> None:
    """Groups of four tokens: token 5 of each reply is in the second group of a call."""
    evaluation = evaluate("pooled:4", **SMALL)
    found = figures(evaluation, tmp_path, Copies(evaluation, lambda tokens: [*tokens[:5], -1, *tokens[6:]]))
    assert found["4"]["whole"] == 3 / 4
    assert [found["4"].get(place) for place in PLACES] == [1, 0, 1, 1]
    assert found["16"]["whole"] == 15 / 16
    assert 0.5 < found["4"]["rougeL"] < found["16"]["rougeL"] < 1
    assert found["1"]["whole"] == 1  # replies of four tokens do not reach the change: a token too many is no matter
    assert set(KINDS) & set(found["4"])


def test_a_reply_that_stops_early_has_wrong_groups_at_its_end(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluation = evaluate("pooled:4", **SMALL)
    found = figures(evaluation, tmp_path, Copies(evaluation, lambda tokens: tokens[:8]))
    assert found["4"]["whole"] == 1 / 2
    assert found["16"]["whole"] == 2 / 16
    assert found["16"]["rougeL"] < found["4"]["rougeL"] < found["1"]["rougeL"] == 1


def test_the_local_policy_answers_both_calls(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluation = evaluate("pooled", "pooled/groups=sentence", **SMALL)
    records = run(evaluation, tmp_path)
    assert all(record.error is None and math.isfinite(record.figures["loss"]) for record in records)
    assert [len(table.rows) for table in evaluation.suite.tables(records, evaluation.labels)] == [2, 2, 2]
    (figure,) = evaluation.suite.plots(records, evaluation.labels)
    assert len(figure.panels) == len(SLOTS)


def test_kinds_of_strings_are_planted(trained: Backbone) -> None:
    made = list(FidelitySuite().cases(Options((128,), 3, ("in",), kinds=("uuid",)), trained))
    assert len({case.seed for case in made}) == 1
    assert "secret identifier" in made[0].accepted[0]


def test_what_cannot_be_measured_is_refused(evaluate: Evaluate, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no slots"):
        run(evaluate("full", **SMALL), tmp_path)
    with pytest.raises(ConfigError, match="unknown kind of string 'colour'; known: code"):
        FidelitySuite().check(Options((64,), 3, kinds=("colour",)))


@given(st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(1, 9), st.integers(1, 20))
def test_divided_blocks_keep_slots_and_tokens_in_order(sizes: list[int], slots: int, ratio: int) -> None:
    blocks, start = [], 0
    for index, tokens in enumerate(sizes):
        count = len(fixed_lengths(tokens, ratio))
        numbers = torch.arange(start, start + count, dtype=torch.float32)[:, None]
        blocks.append(Block(index, 0, start, start + tokens, 0, 0, numbers))
        start += tokens
    parts = divide(Memory("m", "pooled", {}, "", ("a",), blocks), slots, ratio).blocks
    assert [part.index for part in parts] == list(range(len(parts)))
    assert all(0 < part.slot_count <= slots and sum(part.slot_tokens or ()) == part.token_count for part in parts)
    assert sum(part.token_count for part in parts) == sum(sizes)
    kept = [part.slots for part in parts if part.slots is not None]
    assert torch.equal(torch.cat([torch.empty(0, 1), *kept]), torch.cat([block.slots for block in blocks]))  # type: ignore[misc]
