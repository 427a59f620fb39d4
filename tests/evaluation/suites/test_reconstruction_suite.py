from collections.abc import Callable
from pathlib import Path

import pytest
from all_knowing import KnowsEverything

from memfold.backbone.model import Backbone
from memfold.core.errors import ConfigError
from memfold.core.job import Job
from memfold.core.types import BlockRef
from memfold.evaluation.runner import Evaluation, run
from memfold.evaluation.suite import Case, Options
from memfold.evaluation.suites.reconstruction import SPARE_TOKENS, ReconstructionSuite
from memfold.systems.shared.folding import fold

Evaluate = Callable[..., Evaluation]
SMALL = {"suite": "reconstruction", "lengths": (32, 64), "questions": 4, "splits": ("in",)}


def job(evaluation: Evaluation, case: Case) -> Job:
    candidate = evaluation.candidates[0]
    (memory,) = fold(candidate.system, [case.sample.document], evaluation.model)
    return evaluation.suite.job(candidate, case, memory, evaluation.model)


def test_the_prompt_is_that_of_training_with_room_for_the_whole_text(evaluate: Evaluate) -> None:
    evaluation = evaluate("pooled:4", **SMALL)
    case = next(iter(evaluation.suite.cases(evaluation.options, evaluation.model)))
    made = job(evaluation, case)
    assert made.ask is not None
    (call,) = next(made.ask(made.memory, "unused"))
    script = evaluation.candidates[0].system.script(case.sample, evaluation.model, "bare").steps[0]
    assert call.parts == script.call.parts
    assert any(isinstance(part, BlockRef) for part in call.parts)
    assert (call.sampling.max_tokens, call.sampling.temperature) == (32 + SPARE_TOKENS, 0)
    rendered = made.system.render(made.memory, call, evaluation.model)
    assert rendered.memory_positions == 32 // 4


def test_documents_have_exactly_the_length(trained: Backbone) -> None:
    made = list(ReconstructionSuite().cases(Options((32, 64), 4, ("in",)), trained))
    assert [len(case.sample.document.tokens or ()) for case in made] == [32, 32, 64, 64]
    assert len({case.seed for case in made}) == 4
    assert made[0].accepted == (trained.decode(made[0].sample.document.tokens or ()),)


@pytest.mark.parametrize("label", ["pooled:4", "pooled", "full"])
def test_a_policy_that_knows_everything_has_full_marks(evaluate: Evaluate, tmp_path: Path, label: str) -> None:
    evaluation = evaluate(label, **SMALL)
    records = run(evaluation, tmp_path, KnowsEverything(evaluation))
    assert len(records) == 4
    for record in records:
        assert record.correct
        assert {"rouge1", "rougeL", "tokens"} <= set(record.figures)
        assert set(record.figures.values()) == {1.0}
        assert record.reply == record.accepted[0]


def test_a_wrong_text_is_scored_as_such(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluation = evaluate("pooled:4", **SMALL)
    records = run(evaluation, tmp_path, KnowsEverything(evaluation, wrong=lambda case: case.size == 64))
    (table,) = evaluation.suite.tables(records, evaluation.labels)
    assert table.columns == ("ROUGE-1", "ROUGE-L", "token accuracy", "exact strings", "whole text")
    rows = {row.names: row.cells for row in table.rows}
    assert [cell.value for cell in rows["32", "pooled:4"]][:3] == [1.0, 1.0, 1.0]
    assert rows["64", "pooled:4"][1].value == 0
    assert rows["64", "pooled:4"][4].value == 0
    assert rows["all", "pooled:4"][4].markdown() == "50.0 % [15.0, 85.0] n=4"
    (figure,) = evaluation.suite.plots(records, evaluation.labels)
    assert [x for x, _ in figure.panels[0][1]["pooled:4"]] == [32, 64]


def test_the_local_policy_writes_as_much_as_it_may(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluation = evaluate("pooled", **SMALL | {"lengths": (32,), "questions": 2})
    records = run(evaluation, tmp_path)
    assert all(0 < record.cost.generated_tokens <= 32 + SPARE_TOKENS for record in records)
    assert all(record.error is None for record in records)


def test_a_system_that_keeps_text_is_refused(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluation = evaluate("retrieval", **SMALL)
    with pytest.raises(ConfigError, match="keeps text and has none"):
        run(evaluation, tmp_path)
