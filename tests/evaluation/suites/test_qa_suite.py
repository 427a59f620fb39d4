import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from all_knowing import KnowsEverything
from chat_server import ChatServer, says

from memfold.backbone.folder import save_backbone
from memfold.backbone.model import Backbone
from memfold.cli.main import execute
from memfold.core.errors import DataError, MemfoldError
from memfold.core.types import Answer, Trace
from memfold.evaluation.report import write_report
from memfold.evaluation.runner import Evaluation, run
from memfold.evaluation.suite import Options
from memfold.evaluation.suites.qa import QaSuite
from memfold.scoring.judge import open_judge

Evaluate = Callable[..., Evaluation]
TOWNS = ("Velm", "Tor", "Sanu", "Kel")


def squad(path: Path) -> str:
    """Four questions about two paragraphs, and one without an answer."""
    rows = []
    for number, town in enumerate(TOWNS):
        context = f"Ada was born in {TOWNS[number // 2]}, and Lor in {TOWNS[number // 2 + 2]}."
        town = TOWNS[number // 2 + 2 * (number % 2)]
        question = f"Where was {('Ada', 'Lor')[number % 2]} born?"
        answers = {"text": [town], "answer_start": [context.index(town)]}
        rows.append({"id": f"s{number}", "context": context, "question": question, "answers": answers})
    rows.append(rows[0] | {"answers": {"text": [], "answer_start": []}})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"squad={path}"


def marco(path: Path) -> str:
    passages = [{"is_selected": 1, "passage_text": "Velm is a town by the sea. " * 40}]
    row = {"query": "what is velm", "query_id": 5, "query_type": "D", "answers": ["A town"], "passages": passages}
    path.write_text(json.dumps(row) + "\n")
    return f"ms-marco={path}"


@pytest.fixture
def data(tmp_path: Path) -> tuple[str, ...]:
    return squad(tmp_path / "squad.jsonl"), marco(tmp_path / "marco.jsonl")


def test_questions_are_spread_over_the_datasets(trained: Backbone, data: tuple[str, ...]) -> None:
    options = Options((4096,), 6, data=data, trained_on=("squad",))
    cases = list(QaSuite().cases(options, trained))
    assert [case.key for case in cases] == ["in/squad/0", "in/squad/1", "in/squad/2", "out/ms-marco/0"]
    assert [case.sample.split for case in cases] == ["in", "in", "in", "out"]
    assert len({case.seed for case in cases}) == len({case.sample.document.source for case in cases}) == 4
    for case in cases:
        tokens = len(trained.encode(case.sample.document.read()))
        assert case.size / 2 < tokens <= case.size


def test_documents_of_one_size_run_together(trained: Backbone, tmp_path: Path) -> None:
    rows = []
    for number, times in enumerate((12, 1, 12, 1, 1)):
        answers = {"text": ["Town"], "answer_start": [0]}
        context = f"Town {number}. " + "Velm is a town by the sea. " * times
        rows.append({"id": f"s{number}", "context": context, "question": "Which?", "answers": answers})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cases = list(QaSuite().cases(Options((4096,), 4, data=(f"squad={tmp_path / 'a.jsonl'}",)), trained))
    assert [case.key for case in cases] == [f"out/squad/{number}" for number in (1, 3, 0, 2)], "the first four"
    assert cases[0].size == cases[1].size < cases[2].size == cases[3].size


def test_a_row_that_cannot_be_read_is_told_before_anything_is_asked(
    evaluate: Evaluate, data: tuple[str, ...], tmp_path: Path
) -> None:
    """However late it is: a run takes hours."""
    with (tmp_path / "marco.jsonl").open("a") as file:
        file.write('{"query": "?"}\n')
    evaluation = evaluate("full", suite="qa", lengths=(4096,), questions=8, data=data)
    with pytest.raises(DataError, match=r"marco\.jsonl, row 2"):
        run(evaluation, tmp_path / "run")
    assert not (tmp_path / "run" / "samples.jsonl").exists()


def test_longer_documents_are_left_out(trained: Backbone, data: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="no document of ms-marco has 64 tokens or fewer"):
        list(QaSuite().cases(Options((64,), 6, data=data), trained))


def test_the_rules_side_by_side(evaluate: Evaluate, data: tuple[str, ...], tmp_path: Path) -> None:
    options = {"suite": "qa", "lengths": (4096,), "questions": 8, "data": data, "trained_on": ("ms-marco",)}
    evaluation = evaluate("full", "closed-book", **options)
    records = run(evaluation, tmp_path, KnowsEverything(evaluation, wrong=lambda case: case.key == "out/squad/1"))
    assert len(records) == 10
    accuracy, rules = evaluation.suite.tables(records, evaluation.labels)
    assert accuracy.columns == ("in distribution", "out of distribution", "squad", "ms-marco")
    assert [[cell.value for cell in row.cells] for row in accuracy.rows] == [[1.0, 0.75, 0.75, 1.0]] * 2
    assert rules.columns == ("equal", "contained", "verbatim", "SQuAD EM", "SQuAD F1")
    assert [cell.value for cell in rules.rows[0].cells] == [0.75] * 5
    assert rules.rows[0].names == ("squad", "full")
    result = write_report(evaluation, records, tmp_path, 0.0)
    assert result["plots"] == ["accuracy.png"]
    assert result["arguments"]["trained_on"] == ("ms-marco",)


def test_an_answer_may_be_right_by_some_rules(trained: Backbone, data: tuple[str, ...]) -> None:
    suite = QaSuite()
    case = next(iter(suite.cases(Options((4096,), 2, data=data), trained)))
    score = suite.score(case, Trace("?", "full", answer=Answer("", "She was born there.\nAnswer: in Velm.")), trained)
    assert (score.answer, score.correct) == ("in Velm.", False)
    rules = {"exact": 0.0, "contained": 1.0, "verbatim": 0.0, "squad_em": 0.0, "squad_f1": pytest.approx(2 / 3)}
    assert score.figures == rules
    listing = replace(
        case, sample=replace(case.sample, kind="listing", answers=("Velm", "Tor")), accepted=("Velm", "Tor")
    )
    score = suite.score(listing, Trace("?", "full", answer=Answer("", r"\boxed{Tor, Velm}")), trained)
    assert (score.correct, score.figures["squad_f1"]) == (True, pytest.approx(2 * 2 / 5))


def test_a_judge_decides_where_one_is_named(
    evaluate: Evaluate, data: tuple[str, ...], chat_server: ChatServer, tmp_path: Path
) -> None:
    chat_server.usual = says(lambda message: "maybe" if "Kel" in message else "yes")
    evaluation = evaluate("full", suite="qa", lengths=(4096,), questions=8, data=data)
    evaluation = replace(evaluation, judge=open_judge(f"{chat_server.url}#judge", tmp_path))
    records = run(evaluation, tmp_path, KnowsEverything(evaluation, wrong=lambda case: case.key == "out/squad/1"))
    accuracy, rules = evaluation.suite.tables(records, evaluation.labels)
    assert accuracy.note == "Right by the judge."
    assert rules.columns[:2] == ("judged", "equal")
    assert [cell.value for cell in rules.rows[0].cells[:2]] == [0.75, 0.75]
    (failed,) = [record for record in records if record.error]
    assert failed.error is not None
    assert "neither" not in failed.error
    assert "replied 'maybe'; expected yes or no" in failed.error
    assert rules.rows[0].cells[0].failed == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ()}, "suite 'qa' needs local files; give --data NAME=PATH with one of 2wikimultihopqa"),
        ({"data": ("squad",)}, "--data 'squad' cannot be read; write NAME=PATH"),
        ({"data": ("squat=x",)}, "unknown dataset of --data 'squat'; nearest: 'squad'; known: 2wikimultihopqa"),
        ({"data": ("squad=none.jsonl",)}, "no file at none.jsonl; docs/data.md says"),
        ({"trained_on": ("hotpotqa",)}, "unknown dataset of --trained-on 'hotpotqa'"),
    ],
)
def test_data_that_cannot_be_meant(data: tuple[str, ...], changes: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(MemfoldError, match=message):
        QaSuite().check(Options(**{"lengths": (64,), "questions": 1, "data": data} | changes))  # type: ignore[arg-type]


def test_the_command(
    trained: Backbone, data: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_backbone(trained, tmp_path / "model")
    command = ["eval", "qa", "--model", str(tmp_path / "model"), "--system", "pooled", "--questions", "2"]
    begun = ["--out", str(tmp_path / "out")]
    assert execute([*command, *begun, "--data", data[0], "--data", data[1], "--trained-on", "squad"]) == 0
    assert "in distribution" in capsys.readouterr().out
    for arguments, message in (
        ([], "needs local files"),
        (["--data", data[0], "--judge", "tiny"], "'tiny' is not the address of an endpoint"),
        (["--data", data[0], "--depths", "4"], "--depths has no effect in suite 'qa'"),
    ):
        assert execute([*command, *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_a_row_without_an_answer_is_named(trained: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_text('{"id": "1", "context": "Velm.", "question": "Where?"}\n')
    with pytest.raises(DataError, match="row 1: 'answers' is missing"):
        list(QaSuite().cases(Options((64,), 1, data=(f"squad={path}",)), trained))


def test_a_model_that_was_not_trained_here_answers_in_sentences(
    trained: Backbone, evaluate: Evaluate, data: tuple[str, ...], tmp_path: Path
) -> None:
    other = replace(trained, trained={}, chat_template="plain")
    suite = QaSuite()
    case = next(iter(suite.cases(Options((4096,), 2, data=data), other)))
    said = "She was born in Velm, as the text says in its first sentence, long before the mill was built by the river."
    score = suite.score(case, Trace("?", "full", answer=Answer(said, said)), other)
    assert (score.answer, score.correct) == (said, True)
    assert (score.figures["exact"], score.figures["contained"]) == (0.0, 1.0)
    boxed = suite.score(case, Trace("?", "full", answer=Answer(r"So: \boxed{Velm}", "")), other)
    assert (boxed.answer, boxed.correct) == ("So: Velm", True)
    evaluation = evaluate("full", suite="qa", lengths=(4096,), questions=2, data=data[:1])
    records = run(evaluation, tmp_path, KnowsEverything(evaluation))
    accuracy, _ = suite.tables(records, ["full"])
    assert accuracy.note == "Right by normalised comparison: case, punctuation and articles aside."
    sentences = [replace(record, figures=record.figures | score.figures) for record in records]
    assert suite.tables(sentences, ["full"])[0].note.startswith("Right: an accepted answer stands in the reply")
