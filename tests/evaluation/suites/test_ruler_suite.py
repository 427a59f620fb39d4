import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from all_knowing import KnowsEverything

from memfold.backbone.folder import save_backbone
from memfold.backbone.model import Backbone
from memfold.cli.main import execute
from memfold.core.errors import ConfigError, DataError, MemfoldError
from memfold.core.policy import Request
from memfold.core.types import Answer, Reply, Trace
from memfold.evaluation.records import Record, Spent
from memfold.evaluation.report import write_report
from memfold.evaluation.runner import Evaluation, run
from memfold.evaluation.suite import Case, Options, with_options
from memfold.evaluation.suites.ruler import RulerSuite
from memfold.evaluation.table import HeatMap, Table
from memfold.scoring.intervals import average_interval, wilson
from memfold.tasks.ruler import KINDS

Evaluate = Callable[..., Evaluation]
SMALL = {"lengths": (700, 900), "questions": 32, "splits": ("in",)}


def made(backbone: Backbone, **changes: object) -> list[Case]:
    return list(RulerSuite().cases(Options(**SMALL | changes), backbone))  # type: ignore[arg-type]


def test_the_default_lengths_are_those_of_the_published_runs() -> None:
    lengths = RulerSuite.defaults.lengths
    assert lengths == (8192, 16384, 32768, 65536, 131072, 262144, 524288)
    RulerSuite().check(RulerSuite.defaults)
    RulerSuite().check(RulerSuite.quick)
    assert RulerSuite.defaults.questions == 3 * 8 * 7, "one question for each task of the kinds that have three"


def test_kinds_and_their_tasks_take_turns(trained: Backbone) -> None:
    cases = made(trained, lengths=(700,))
    assert [case.key for case in cases[:9]] == [
        "in/700/needle-1/0.0",
        "in/700/multi-key-1/0.0",
        "in/700/multi-value/0.0",
        "in/700/multi-query/0.0",
        "in/700/tracking/0.0",
        "in/700/common-words/0.0",
        "in/700/frequent-words/0.0",
        "in/700/qa/0.0",
        "in/700/needle-2/1.0",
    ]
    assert [case.key for case in cases if "/needle" in case.key] == [
        f"in/700/needle-{task}/{page}.0" for page, task in enumerate((1, 2, 3, 1))
    ]
    assert len({case.seed for case in cases}) == len({case.sample.document.source for case in cases}) == 32
    for case in cases:
        assert len(trained.encode(case.sample.document.read())) <= case.size
    assert cases == made(trained, lengths=(700,))
    assert cases[0].sample.document != made(trained, lengths=(700,), questions=8, seed=1)[0].sample.document


def test_questions_are_spread_evenly_over_the_kinds_that_are_asked(trained: Backbone) -> None:
    kinds = ("qa", "multi-key", "tracking", "qa")
    cases = made(trained, kinds=kinds, questions=14)
    assert Counter(
        case.key.split("/")[2].removesuffix("-1").removesuffix("-2").removesuffix("-3") for case in cases
    ) == {
        "multi-key": 6,
        "tracking": 4,
        "qa": 4,
    }


def test_questions_share_a_document_where_the_task_allows_it(trained: Backbone) -> None:
    cases = made(trained, lengths=(1200,), per_document=2)
    shared = Counter(case.seed for case in cases)
    for case in cases:
        assert shared[case.seed] == (1 if "-words/" in case.key else 2), case.key
        assert case.seed == next(other.seed for other in cases if other.sample.document == case.sample.document)
    assert len({(case.seed, case.sample.question) for case in cases}) == len(cases) == 32


def score_of(case: Case, answer: str, model: Backbone) -> tuple[bool, dict[str, float]]:
    score = RulerSuite().score(case, Trace("?", "full", answer=Answer(answer, "reply")), model)
    return score.correct, score.figures


@pytest.mark.parametrize(
    ("answer", "right", "found", "whole"),
    [
        ("Velm, Tor, Sanu and Dozo", True, 1.0, 1.0),
        ("velm and SANU.", False, 0.5, 0.5),
        ("Velmar, Torvelm and Sanu", False, 0.75, 0.25),
        (r"\text{Velm}", False, 0.25, 0.25),
        ("", False, 0.0, 0.0),
    ],
)
def test_of_several_strings_each_counts(
    trained: Backbone, answer: str, right: bool, found: float, whole: float
) -> None:
    case = next(case for case in made(trained) if "multi-value" in case.key)
    case = replace(case, accepted=("Velm", "Tor", "Sanu", "Dozo"))
    assert score_of(case, answer, trained) == (right, {"found": found, "found_whole": whole})


def test_of_several_accepted_answers_one_counts(trained: Backbone) -> None:
    case = replace(next(case for case in made(trained) if "/qa/" in case.key), accepted=("the river Sanu", "Sanu"))
    assert score_of(case, "It is Sanu.", trained) == (True, {"found": 1.0, "found_whole": 1.0})
    assert score_of(case, "Sanutor", trained) == (True, {"found": 1.0, "found_whole": 0.0})
    assert score_of(case, "the river Tor", trained) == (False, {"found": 0.0, "found_whole": 0.0})


def record(task: str, found: float | None, size: int = 8192, number: int = 0, whole: float | None = None) -> Record:
    figures = {} if found is None else {"found": found, "found_whole": found if whole is None else whole}
    common = {"seed": 1, "size": size, "split": "in", "kind": "", "hops": 1, "question": "?", "accepted": ("a",)}
    return Record(
        f"in/{size}/{task}/{number}.0",
        "full",
        "ruler",
        **common,
        answer="",
        reply="",
        correct=found == 1,
        figures=figures,
        error="down" if found is None else None,
        cost=Spent(),
    )  # type: ignore[arg-type]


def shown(table: Table) -> dict[tuple[str, ...], dict[str, float | None]]:
    return {row.names: dict(zip(table.columns, (cell.value for cell in row.cells), strict=True)) for row in table.rows}


def test_kinds_have_the_same_weight_and_failures_are_wrong() -> None:
    records = [
        *(record("qa", found, number=number) for number, found in enumerate((1.0, 1.0, 1.0, None))),
        record("multi-value", 0.25, whole=0.0),
        record("multi-value", 0.75, number=1),
        record("qa", 0.0, size=16384),
        record("multi-value", 1.0, size=16384),
    ]
    (table,) = RulerSuite().tables(records, ["full", "retrieval"])
    assert table.title == "RULER, split in"
    assert table.columns == ("average", "multi-value", "qa", "whole words")
    rows = shown(table)
    assert rows["8192", "full"] == pytest.approx(
        {"average": 0.625, "multi-value": 0.5, "qa": 0.75, "whole words": (0.75 / 2 + 0.75) / 2}
    )
    assert rows["16384", "full"] == {"average": 0.5, "multi-value": 1.0, "qa": 0.0, "whole words": 0.5}
    assert rows["all", "full"]["average"] == pytest.approx((3 / 5 + 2 / 3) / 2)
    assert set(rows["8192", "retrieval"].values()) == {None}, "it was not asked"
    average = next(row for row in table.rows if row.names == ("8192", "full")).cells[0]
    assert (average.count, average.failed) == (6, 1)
    interval = average_interval([0.5, 0.75], [wilson(1.0, 2), wilson(3, 4)])
    assert (average.low, average.high) == pytest.approx(interval)
    assert RulerSuite().tables([], ["full"]) == []


def test_averages_that_are_published_by_hand() -> None:
    scores = {
        "needle-1": 1.0,
        "needle-2": 1.0,
        "needle-3": 0.0,
        "multi-key-1": 1.0,
        "multi-key-2": 0.0,
        "multi-key-3": 0.0,
        "multi-value": 0.75,
        "multi-query": 0.25,
        "tracking": 0.6,
        "frequent-words": 1 / 3,
        "common-words": 0.9,
        "qa": 1.0,
    }
    records = [record(task, found) for task, found in scores.items()]
    table = RulerSuite().tables(records, ["full"])[1]
    assert table.title == "Needles by task, split in"
    row = shown(table)["8192", "full"]
    assert {task: row[task] for task in list(scores)[:6]} == {task: scores[task] for task in list(scores)[:6]}
    assert row["single needles"] == pytest.approx(2 / 3)
    assert row["all needles"] == pytest.approx((2 + 1 + 0.75 + 0.25) / 8)
    assert row["ten tasks"] == pytest.approx((2 + 1 + 0.75 + 0.25 + 0.6 + 1 / 3) / 10)
    without = [one for one in records if "needle-3" not in one.case and "frequent" not in one.case]
    (table,) = [table for table in RulerSuite().tables(without, ["full"]) if table.title.startswith("Needles")]
    assert table.columns == ("needle-1", "needle-2", "multi-key-1", "multi-key-2", "multi-key-3"), "no average is whole"


class Fails(KnowsEverything):
    """Cannot be reached for one case."""

    def answer(self, request: Request) -> Reply:
        if self._case(request).key == "in/900/qa/0.0":
            raise DataError("down")
        return super().answer(request)


def test_a_run_in_which_a_question_failed(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluation = evaluate("full", "pooled:4/bare", suite="ruler", **SMALL | {"questions": 16})
    policy = Fails(evaluation, wrong=lambda case: case.key == "in/900/tracking/0.0")
    records = run(evaluation, tmp_path, policy)
    table = evaluation.suite.tables(records, evaluation.labels)[0]
    rows = shown(table)
    assert rows["700", "full"] == dict.fromkeys(table.columns, 1.0)
    expected = dict.fromkeys(table.columns, 1.0) | {"tracking": 0.0, "qa": 0.0, "average": 6 / 8, "whole words": 6 / 8}
    assert rows["900", "pooled:4/bare"] == pytest.approx(expected)
    result = write_report(evaluation, records, tmp_path, 0.0)
    assert result["plots"] == ["ruler-in.png", "ruler-in-full.png", "ruler-in-pooled-4-bare.png"]
    lines, full, _ = evaluation.suite.plots(records, evaluation.labels)
    assert [x for x, _ in lines.panels[0][1]["full"]] == [700, 900]  # type: ignore[union-attr]
    assert isinstance(full, HeatMap)
    assert (full.xs, full.ys) == (("700", "900"), tuple(KINDS))
    assert [[cell.value for cell in row] for row in full.cells][4] == [1.0, 0.0]


def test_the_suite_runs_from_the_command_line(
    trained: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_backbone(trained, tmp_path / "model")
    command = ["eval", "ruler", "--quick", "--system", "retrieval", "--max-tokens", "2", "--json"]
    assert execute([*command, "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["samples"], result["errors"]) == (16, {})
    assert result["tables"][0]["title"] == "RULER, split in"


def test_an_unknown_kind_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["eval", "ruler", "--kind", "multi-keys", "--model", "no-such-folder"]) == 2
    error = capsys.readouterr().err
    assert "unknown kind of question 'multi-keys'; nearest: 'multi-key'; known: common-words, frequent-words" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"questions": 15}, "questions = 15 is not possible; allowed: 16 or more, one of each kind for each length"),
        ({"questions": 3, "kinds": ("qa", "needle")}, "questions = 3 is not possible; allowed: 4 or more"),
        ({"per_document": 65}, "per_document = 65 is not possible; allowed: 1 to 64"),
        ({"kinds": ("needle-1",)}, "unknown kind of question 'needle-1'; nearest: 'needle'"),
    ],
)
def test_options_that_cannot_be_meant(changes: dict[str, object], message: str) -> None:
    with pytest.raises(MemfoldError, match=message):
        RulerSuite().check(Options(**SMALL | changes))  # type: ignore[arg-type]


def test_options_without_effect(trained: Backbone) -> None:
    suite = RulerSuite()
    alone = {"kinds": ("common-words", "frequent-words"), "per_document": 2}
    with pytest.raises(ConfigError, match="--per-document has no effect in suite 'ruler' with these options"):
        with_options(suite, suite.defaults, alone)
    with pytest.raises(ConfigError, match="--text has no effect in suite 'ruler'"):
        with_options(suite, suite.defaults, {"text": "essay.txt"})
    with pytest.raises(ConfigError, match="100 tokens have no room for 10 words that occur twice"):
        made(trained, lengths=(100,), kinds=("common-words",))
