from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from all_knowing import KnowsEverything
from hypothesis import given
from hypothesis import strategies as st
from scripted_policy import ScriptedPolicy

from memfold.backbone.model import Backbone
from memfold.core.document import Document
from memfold.core.errors import CheckpointError, ConfigError, DataError
from memfold.core.lock import FolderLock
from memfold.core.policy import Request
from memfold.core.types import Reply, Sample
from memfold.evaluation import runner
from memfold.evaluation.records import SAMPLES_FILE, Record
from memfold.evaluation.runner import Evaluation, batches, cache_positions, run
from memfold.evaluation.suite import Case
from memfold.systems.shared.folding import fold

Evaluate = Callable[..., Evaluation]


class Interrupts(KnowsEverything):
    """Gives up after some batches, as a user does who presses Ctrl-C."""

    limit = 2

    def answer(self, request: Request) -> Reply:
        if len(self.batches) > self.limit:
            raise KeyboardInterrupt
        return super().answer(request)


def essence(records: list[Record]) -> list[tuple[str, str, str, bool]]:
    return sorted((record.system, record.case, record.reply, record.correct) for record in records)


def test_every_system_is_asked_the_same_cases(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluation = evaluate("full", "pooled", "pooled:4", "retrieval", "closed-book", per_document=2)
    records = run(evaluation, tmp_path, KnowsEverything(evaluation))
    expected = {case.key for case in evaluation.suite.cases(evaluation.options, evaluation.model)}
    assert len(expected) == 8
    for label in evaluation.labels:
        assert {record.case for record in records if record.system == label} == expected
    assert len(records) == 40
    assert all(record.correct and record.error is None for record in records)
    questions = {(record.case, record.question, record.accepted) for record in records}
    assert len(questions) == 8
    ratios = {record.system: record.ratio for record in records}
    assert ratios == {"full": None, "pooled": 16, "pooled:4": 4, "retrieval": None, "closed-book": None}


def test_an_interrupted_run_goes_on_where_it_stopped(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluation = evaluate("full", "pooled")
    unbroken = run(evaluation, tmp_path / "whole", KnowsEverything(evaluation))
    with pytest.raises(KeyboardInterrupt):
        run(evaluation, tmp_path / "part", Interrupts(evaluation))
    kept = (tmp_path / "part" / SAMPLES_FILE).read_text().count("\n")
    assert 0 < kept < len(unbroken)
    policy = KnowsEverything(evaluation)
    counted: list[Record] = []
    records = run(evaluation, tmp_path / "part", policy, counted.append)
    assert len(policy.asked) == len(unbroken) - kept
    assert essence(records) == essence(unbroken) == essence(counted)


def test_a_finished_run_asks_nothing_and_another_system_joins_it(evaluate: Evaluate, tmp_path: Path) -> None:
    first = evaluate("full")
    run(first, tmp_path, KnowsEverything(first))
    again = KnowsEverything(first)
    assert len(run(first, tmp_path, again)) == 8
    assert again.asked == []
    both = evaluate("pooled", "full")
    joining = KnowsEverything(both)
    assert len(run(both, tmp_path, joining)) == 16
    assert {name for name, _ in joining.asked} == {"pooled"}
    assert len(run(first, tmp_path, again)) == 8


def test_a_folder_of_another_model_is_refused(
    evaluate: Evaluate, new_backbone: Callable[..., Backbone], tmp_path: Path
) -> None:
    evaluation = evaluate("full")
    run(evaluation, tmp_path, KnowsEverything(evaluation))
    other = replace(evaluation, model=new_backbone(seed=1))
    with pytest.raises(ConfigError, match="holds samples with model"):
        run(other, tmp_path, KnowsEverything(evaluation))


def test_a_sample_that_fails_is_recorded_and_the_others_go_on(
    evaluate: Evaluate, new_backbone: Callable[..., Backbone], tmp_path: Path
) -> None:
    small = new_backbone(window=300)
    evaluation = replace(evaluate("full", "pooled", lengths=(64, 400), questions=2, splits=("in",)), model=small)
    records = run(evaluation, tmp_path)
    failed = {(record.system, record.size) for record in records if record.error}
    assert failed == {("full", 400)}
    message = next(record.error for record in records if record.error)
    assert message is not None
    assert "the model's window is 300" in message
    assert not any(record.correct for record in records if record.error)


def test_a_model_that_cannot_fold_ends_the_run(
    evaluate: Evaluate, new_backbone: Callable[..., Backbone], tmp_path: Path
) -> None:
    plain = new_backbone()
    plain.heads.clear()
    with pytest.raises(CheckpointError, match="no projection"):
        run(replace(evaluate("pooled"), model=plain), tmp_path)


def test_the_local_policy_answers_and_costs_are_recorded(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluation = evaluate("pooled", "closed-book", questions=2, lengths=(64,), splits=("in",))
    records = {record.system: record for record in run(evaluation, tmp_path)}
    cost = records["pooled"].cost
    assert cost.positions == cost.slots == -(-cost.document_tokens // 16)  # no wrapper
    assert cost.effective_ratio == pytest.approx(cost.document_tokens / cost.positions, abs=1e-4)
    assert cost.generated_tokens > 0
    assert records["closed-book"].cost.positions == records["closed-book"].cost.document_tokens == 0


def test_folding_together_equals_folding_alone(evaluate: Evaluate) -> None:
    evaluation = evaluate("pooled")
    documents = [Document(f"d{n}", text="Ada was born in Velm. " * (3 + n)) for n in range(3)]
    system, backbone = evaluation.candidates[0].system, evaluation.model
    for document, memory in zip(documents, fold(system, documents, backbone), strict=True):
        (alone,) = fold(system, [document], backbone)
        assert (memory.name, memory.sources) == (document.source, (document.source,))
        for block, same in zip(memory.blocks, alone.blocks, strict=True):
            assert block.source == 0
            assert block.slots is not None
            assert same.slots is not None
            assert not block.slots.requires_grad
            torch.testing.assert_close(block.slots, same.slots)


@given(
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from([64, 128]), st.integers(1, 40)), max_size=12),
    st.integers(1, 600),
)
def test_batches_keep_documents_whole_and_within_the_budget(
    documents: list[tuple[int, int, int]], positions: int
) -> None:
    cases = [
        Case(f"{seed}/{number}", Sample("t", Document(str(seed)), "?"), (), seed, size, reply)
        for seed, (questions, size, reply) in enumerate(documents)
        for number in range(questions)
    ]
    made = list(batches(iter(cases), positions))
    assert [case for batch in made for case in batch] == cases
    for batch in made:
        seeds = {case.seed for case in batch}
        assert sum(case.seed in seeds for case in cases) == len(batch)
        assert len({case.size for case in batch}) == 1
        assert len(seeds) == 1 or sum(case.size + case.reply_tokens for case in batch) <= positions


def test_the_budget_counts_keys_and_values(trained: Backbone) -> None:
    each = 2 * trained.model.config.num_hidden_layers * 2 * 8 * 4  # keys and values, layers, heads, size, bytes
    assert cache_positions(trained) == (1 << 30) // each


def test_a_folder_has_one_writer_at_a_time(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluation, folder = evaluate("full", questions=2, splits=("in",)), tmp_path / "run"
    with FolderLock(folder) as lock:
        with pytest.raises(DataError, match=r"another process is writing .*run; wait for it or choose another folder"):
            run(evaluation, folder, KnowsEverything(evaluation))
        assert len(run(evaluation, folder, KnowsEverything(evaluation), lock=lock)) == 2
    assert sorted(path.name for path in folder.iterdir()) == ["arguments.json", "samples.jsonl"]


@pytest.mark.parametrize(("label", "together"), [("full", 1), ("recurrent/chunk=64/note=8", 4), ("retrieval/top=1", 4)])
def test_questions_whose_calls_are_short_are_asked_together(
    evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: str, together: int
) -> None:
    """As many as fit by the length of their calls, however long the document is."""
    monkeypatch.setattr(runner, "cache_positions", lambda model: 1000)
    evaluation = evaluate(label, lengths=(400,), questions=4, splits=("in",), per_document=4)
    policy = ScriptedPolicy(lambda call: "nothing")
    records = run(evaluation, tmp_path, policy)
    assert [record.error for record in records] == [None] * 4
    assert max(policy.rounds) == together
