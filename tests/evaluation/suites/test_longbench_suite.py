import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from all_knowing import KnowsEverything

from memfold.backbone.model import Backbone
from memfold.core.errors import ConfigError
from memfold.core.types import Answer, Reply, Trace
from memfold.evaluation.runner import Evaluation, run
from memfold.evaluation.suite import Options
from memfold.evaluation.suites.longbench import LongBenchSuite
from memfold.scoring.judge import Judge

Evaluate = Callable[..., Evaluation]


@pytest.fixture
def data(tmp_path: Path) -> tuple[str, ...]:
    choices = {"choice_A": "Velm", "choice_B": "Tor", "choice_C": "Sanu", "choice_D": "Kel"}
    rows = [
        {
            "_id": str(n),
            "domain": domain,
            "question": f"Which town is {n}?",
            "answer": "ABCD"[n],
            "context": "Text. " * 9,
        }
        | choices
        for n, domain in enumerate(("Law", "Law", "Code", "Code"))
    ]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    return (f"longbench-v2={path}",)


@pytest.mark.parametrize(
    ("reply", "answer", "right", "letter"),
    [
        ("The correct answer is (A).", "A", True, 1.0),
        ("B", "B", False, 1.0),
        ("Velm", "Velm", True, 0.0),
        ("I cannot tell.", "I cannot tell.", False, 0.0),
    ],
)
def test_letters_are_right_or_wrong(
    trained: Backbone, data: tuple[str, ...], reply: str, answer: str, right: bool, letter: float
) -> None:
    suite = LongBenchSuite()
    case = next(iter(suite.cases(Options((4096,), 4, data=data), trained)))
    score = suite.score(case, Trace("?", "full", answer=Answer("", reply)), trained)
    assert (score.answer, score.correct, score.figures) == (answer, right, {"letter": letter})


def test_accuracy_by_domain(evaluate: Evaluate, data: tuple[str, ...], tmp_path: Path) -> None:
    evaluation = evaluate("full", "retrieval", suite="longbench-v2", lengths=(4096,), data=data)
    records = run(evaluation, tmp_path, KnowsEverything(evaluation, wrong=lambda case: case.key.endswith("/3")))
    assert len(records) == 8
    (table,) = evaluation.suite.tables(records, evaluation.labels)
    assert table.columns == ("all", "Law", "Code", "a letter was chosen")
    assert [cell.value for cell in table.rows[0].cells] == [0.75, 1.0, 0.5, 0.75]
    (figure,) = evaluation.suite.plots(records, evaluation.labels)
    assert list(figure.panels[0][1]) == ["full", "retrieval"]  # type: ignore[union-attr]


def test_a_judge_decides_where_one_is_named(evaluate: Evaluate, data: tuple[str, ...], tmp_path: Path) -> None:
    evaluation = evaluate("full", suite="longbench-v2", lengths=(4096,), questions=2, data=data)
    judge = Judge("judge", lambda messages, sampling: [Reply("no")] * len(messages), tmp_path / "verdicts.jsonl")
    records = run(replace(evaluation, judge=judge), tmp_path / "out", KnowsEverything(evaluation))
    (table,) = evaluation.suite.tables(records, evaluation.labels)
    assert table.note.startswith("Right by the judge.")
    assert [table.rows[0].cells[column].value for column in (0, -1)] == [0.0, 1.0]


def test_other_data_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown dataset of --data 'squad'; known: longbench-v2"):
        LongBenchSuite().check(Options((64,), 1, data=("squad=x",)))
