import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from all_knowing import KnowsEverything

from memfold.backbone.model import Backbone
from memfold.core.errors import DataError, MemfoldError
from memfold.core.types import Answer, Trace
from memfold.evaluation.report import write_report
from memfold.evaluation.runner import Evaluation, run
from memfold.evaluation.suite import Case, Options
from memfold.evaluation.suites.multihop import MultihopSuite

Evaluate = Callable[..., Evaluation]
SMALL = {"lengths": (360, 480), "questions": 8, "splits": ("in",)}


def made(backbone: Backbone, **changes: object) -> list[Case]:
    return list(MultihopSuite().cases(Options(**SMALL | changes), backbone))  # type: ignore[arg-type]


def hotpot(path: Path, count: int) -> tuple[str, ...]:
    rows = []
    for number in range(count):
        context = [
            [f"Ada {number}", [f"Ada {number} wrote book {number}."]],
            [f"Book {number}", [f"It is about town {number}."]],
        ]
        row = {
            "_id": str(number),
            "question": f"What is the book of Ada {number} about?",
            "answer": f"town {number}",
            "type": "bridge",
            "supporting_facts": [[f"Ada {number}", 0], [f"Book {number}", 0]],
            "context": context,
        }
        rows.append(row)
    path.write_text(json.dumps(rows))
    return (f"hotpotqa={path}",)


def test_generated_questions_take_turns(trained: Backbone) -> None:
    cases = made(trained)
    assert [case.key for case in cases[:3]] == ["in/360/two-hop/0", "in/360/tracking/1", "in/360/two-hop/2"]
    assert [case.sample.hops for case in cases[:2]] == [2, 4]
    assert len({case.seed for case in cases}) == 8
    assert all(len(trained.encode(case.sample.document.read())) <= case.size for case in cases)
    assert {case.key.split("/")[2] for case in made(trained, kinds=("tracking",))} == {"tracking"}


def test_a_chain_is_hidden_in_any_text(trained: Backbone, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("The cat sat on the mat. Nobody saw it there.")
    (case, *_) = made(trained, kinds=("tracking",), text=str(tmp_path / "own.txt"))
    document = case.sample.document.read()
    assert document.count("The cat sat on the mat.") > 3
    assert all(document.count(statement) == 1 for statement in case.sample.support)


def test_questions_of_a_dataset_stand_among_those_of_others(trained: Backbone, tmp_path: Path) -> None:
    data = hotpot(tmp_path / "hotpot.json", 60)
    cases = made(trained, data=data, trained_on=("hotpotqa",), lengths=(200, 400))
    assert [case.key for case in cases[::4]] == ["in/200/hotpotqa/0", "in/400/hotpotqa/0"]
    for case in cases:
        tokens = len(trained.encode(case.sample.document.read()))
        assert 0.7 * case.size <= tokens <= case.size
        assert all(one in case.sample.document.read() for one in case.sample.support)
    assert len({case.sample.document.source for case in cases}) == 8
    with pytest.raises(DataError, match="all questions of hotpotqa have more than 8 tokens"):
        made(trained, data=data, lengths=(8,))
    with pytest.raises(DataError, match="give more files"):
        made(trained, data=data, lengths=(9000,))


@pytest.mark.parametrize(
    ("reply", "right", "share"),
    [
        (r"So it is. \boxed{Velm, Tor}", True, 1.0),
        ("Answer: Tor and Velm.", True, 1.0),
        ("It leads from Velm to Sanu.", False, 0.5),
        ("Velm and Tor, then " + "more " * 20, False, 0.0),  # outside of the last 20 words
    ],
)
def test_a_chain_wants_every_name(trained: Backbone, reply: str, right: bool, share: float) -> None:
    suite, case = MultihopSuite(), made(trained)[1]
    case = replace(case, accepted=("Velm", "Tor"))
    score = suite.score(case, Trace("?", "full", answer=Answer("", reply)), trained)
    assert (score.correct, score.figures) == (right, {"share": share})


def test_any_accepted_answer_of_a_question_will_do(trained: Backbone) -> None:
    suite, case = MultihopSuite(), made(trained)[0]
    case = replace(case, accepted=("Velm", "Tor"))
    assert suite.score(case, Trace("?", "full", answer=Answer("", "in the town of Tor")), trained).correct


def test_what_is_lost_with_length(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluation = evaluate("full", "pooled:4/bare", suite="multihop", **SMALL | {"kinds": ("two-hop",)})
    records = run(
        evaluation, tmp_path, KnowsEverything(evaluation, wrong=lambda case: case.key in ("in/480/two-hop/0",))
    )
    accuracy, fall = evaluation.suite.tables(records, evaluation.labels)
    assert accuracy.columns == ("all", "two-hop", "found")
    assert {row.names: row.cells[0].value for row in accuracy.rows}["all", "full"] == 7 / 8
    assert fall.columns == ("360 tokens", "480 tokens", "lost")
    lost = fall.rows[0].cells[2]
    assert (lost.value, lost.count) == (0.25, 8)
    assert lost.low is not None
    assert lost.low < 0 < 0.25 < (lost.high or 0)
    result = write_report(evaluation, records, tmp_path, 0.0)
    assert result["plots"] == ["multihop-in.png"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kinds": ("three-hop",)}, "unknown kind of question 'three-hop'; nearest: 'two-hop'"),
        ({"data": ("squad=x",)}, "unknown dataset of --data 'squad'; "),
        ({"data": ("hotpotqa=x",), "kinds": ("tracking",)}, "--kind 'tracking' is for generated documents"),
        ({"text": "some.txt", "kinds": ("two-hop",)}, "--text some.txt is for --kind tracking; leave it out"),
        ({"text": "some.txt", "data": ("hotpotqa=x",)}, "--text some.txt is for --kind tracking; leave it out"),
        ({"text": "no-such.txt"}, "no-such.txt"),
        ({"trained_on": ("hotpotqa",)}, "unknown dataset of --trained-on 'hotpotqa'"),
    ],
)
def test_options_that_cannot_be_meant(changes: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(MemfoldError, match=message):
        MultihopSuite().check(Options(**SMALL | changes))  # type: ignore[arg-type]
