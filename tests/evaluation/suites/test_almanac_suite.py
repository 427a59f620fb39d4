from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from all_knowing import KnowsEverything

from memfold.backbone.model import Backbone
from memfold.core.errors import ConfigError
from memfold.core.types import Answer, Citation, Span, Trace
from memfold.evaluation.records import Record
from memfold.evaluation.runner import Evaluation, run
from memfold.evaluation.suite import FIRST_SEED, Options
from memfold.evaluation.suites.almanac import AlmanacSuite
from memfold.evaluation.table import Table

Evaluate = Callable[..., Evaluation]


def record(system: str, case: str, correct: bool, **changes: object) -> Record:
    record = Record(
        case=case,
        system=system,
        suite="almanac",
        seed=1,
        size=128,
        split="in",
        kind="one-hop",
        hops=1,
        question="?",
        accepted=("x",),
        answer="",
        reply="",
        correct=correct,
    )
    return replace(record, **changes)  # type: ignore[arg-type]


def cells(table: Table) -> dict[tuple[str, ...], list[tuple[float | None, int]]]:
    return {row.names: [(cell.value, cell.count) for cell in row.cells] for row in table.rows}


def test_refusals_are_counted_by_whether_the_text_has_the_answer() -> None:
    records = [
        record("a", "1", True, kind="absent", answer="Not in the text."),
        record("a", "2", False, kind="absent", answer="Velm"),
        record("a", "3", True, answer="x"),
        record("a", "4", False, answer="not in the text"),
        record("a", "5", False, answer="y"),
    ]
    tables = {table.title: table for table in AlmanacSuite().tables(records, ["a"])}
    found = cells(tables["Refusals, split in"])
    assert found == {("a",): [(1 / 2, 2), (1 / 3, 3), (1 / 2, 2)]}
    assert "absent" in tables["Accuracy, split in"].columns
    answerable = AlmanacSuite().tables([each for each in records if each.kind != "absent"], ["a"])
    assert all("Refusals" not in table.title for table in answerable)


def test_kinds_of_questions_can_be_chosen(trained: Backbone) -> None:
    options = Options(lengths=(160,), questions=6, kinds=("absent", "two-hop"))
    kinds = {case.sample.kind for case in AlmanacSuite().cases(options, trained)}
    assert kinds == {"absent", "two-hop"}
    with pytest.raises(ConfigError, match="nearest: 'absent'"):
        AlmanacSuite().check(Options(lengths=(160,), questions=6, kinds=("absnt",)))


def test_cases_are_fresh_documents_with_seeds_of_their_own(trained: Backbone) -> None:
    options = Options(lengths=(96, 160), questions=12)
    made = list(AlmanacSuite().cases(options, trained))
    assert [(case.sample.split, case.size) for case in made] == [
        (split, length) for split, length, count in options.cells() for _ in range(count)
    ]
    assert len({case.seed for case in made}) == len({case.key for case in made}) == 12
    assert min(case.seed for case in made) >= FIRST_SEED
    assert all(len(trained.encode(case.sample.document.read())) <= case.size for case in made)
    assert all(case.accepted == case.sample.answers for case in made)


def test_cases_repeat_themselves_and_fewer_are_the_first_of_more(trained: Backbone) -> None:
    few = Options(lengths=(96,), questions=3, splits=("out",))
    many = replace(few, questions=6)
    suite = AlmanacSuite()
    keys = [(case.key, case.seed, case.sample.question) for case in suite.cases(many, trained)]
    assert [(case.key, case.seed, case.sample.question) for case in suite.cases(few, trained)] == keys[:3]
    other = [case.seed for case in suite.cases(replace(few, seed=1), trained)]
    assert not {seed for _, seed, _ in keys} & set(other)


def test_several_questions_share_a_document(trained: Backbone) -> None:
    options = Options(lengths=(400,), questions=7, splits=("in",), per_document=3)
    made = list(AlmanacSuite().cases(options, trained))
    assert len(made) == 7
    assert len({case.seed for case in made}) == 3
    assert len({(case.seed, case.sample.question) for case in made}) == 7


def test_a_policy_that_knows_everything_is_always_right(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluation = evaluate("full", "pooled:4/bare", lengths=(300,), questions=40)
    records = run(evaluation, tmp_path, KnowsEverything(evaluation))
    assert {record.kind for record in records} >= {"one-hop", "two-hop", "listing"}
    tables = evaluation.suite.tables(records, evaluation.labels)
    assert all(row.cells[0].value == 1 for table in tables[:2] for row in table.rows)


def test_figures_judge_the_first_citations(trained: Backbone) -> None:
    suite = AlmanacSuite()
    case = next(iter(suite.cases(Options((300,), 1, ("in",)), trained)))
    sample = replace(case.sample, evidence=(Span(10, 20), Span(30, 40)), answers=("Velm",), kind="two-hop")
    case = replace(case, sample=sample)
    answer = Answer("velm", "", (Citation("d", 0, 12), Citation("d", 50, 60)))
    score = suite.score(case, Trace("?", "full", answer=answer), trained)
    assert score.correct
    cited = {"evidence_any": 1.0, "evidence_all": 0.0, "cited_characters": 22.0}
    assert score.figures == {"exact": 1.0, "contained": 1.0} | cited
    figures = suite.score(case, Trace("?", "full", answer=Answer("no")), trained).figures
    assert figures == {"exact": 0.0, "contained": 0.0}


def test_accuracy_by_length_and_kind() -> None:
    records = [
        record("full", "a", True),
        record("full", "b", False),
        record("full", "c", True, kind="two-hop", size=256),
        record("full", "d", True, split="out"),
        record("pooled", "a", False, error="policy: no"),
    ]
    tables = AlmanacSuite().tables(records, ["pooled", "full"])
    accuracy = next(table for table in tables if table.title == "Accuracy, split in")
    assert accuracy.columns == ("all", "one-hop", "two-hop")
    found = cells(accuracy)
    assert list(found) == [(length, label) for length in ("all", "128", "256") for label in ("pooled", "full")]
    assert found["all", "full"] == [(pytest.approx(2 / 3), 3), (0.5, 2), (1.0, 1)]
    assert found["128", "full"] == [(0.5, 2), (0.5, 2), (None, 0)]
    assert found["256", "pooled"] == [(None, 0)] * 3
    failed = accuracy.rows[0].cells[0]
    assert (failed.value, failed.count, failed.failed, failed.markdown()) == (0.0, 1, 1, "error n=1")
    assert accuracy.rows[1].cells[0].markdown() == "66.7 % [20.8, 93.9] n=3"
    out = next(table for table in tables if table.title == "Accuracy, split out")
    assert cells(out)["128", "full"] == [(1.0, 1), (1.0, 1)]


def test_the_share_of_full_pairs_the_same_questions() -> None:
    records = [record("full", key, right) for key, right in zip("abcd", (True, True, False, True), strict=True)]
    records += [record("pooled", key, right) for key, right in zip("abcd", (True, False, True, True), strict=True)]
    records += [record("retrieval", "a", False)]
    tables = AlmanacSuite().tables(records, ["full", "pooled", "retrieval"])
    table = next(table for table in tables if table.title == "Share of full, split in")
    assert cells(table) == {("pooled",): [(1.0, 4)], ("retrieval",): [(0.0, 1)]}
    low, high = table.rows[0].cells[0].low, table.rows[0].cells[0].high
    assert low is not None
    assert high is not None
    assert low < 1 < high


def test_citations_are_counted_over_right_answers() -> None:
    hit = {"evidence_any": 1.0, "evidence_all": 1.0, "cited_characters": 40.0}
    half = {"evidence_any": 1.0, "evidence_all": 0.0, "cited_characters": 20.0}
    records = [
        record("retrieval", "a", True, figures=hit),
        record("retrieval", "b", True, figures=half),
        record("retrieval", "c", True),
        record("retrieval", "d", False, figures=hit),
        record("closed-book", "a", True),
    ]
    tables = AlmanacSuite().tables(records, ["retrieval", "closed-book"])
    table = next(table for table in tables if table.title == "Citations, split in")
    assert cells(table) == {
        ("retrieval",): [(pytest.approx(2 / 3), 3), (pytest.approx(1 / 3), 3), (20.0, 3)],
        ("closed-book",): [(None, 0)] * 3,
    }


def test_plots_draw_all_kinds_over_length() -> None:
    records = [record("full", "a", True), record("full", "b", False, size=256, kind="comparison")]
    (figure,) = AlmanacSuite().plots(records, ["full"])
    assert figure.name == "accuracy-in"
    assert [title for title, _ in figure.panels] == ["all, split in", "one-hop, split in"]
    assert [(x, cell.value) for x, cell in figure.panels[0][1]["full"]] == [(128, 1.0), (256, 0.0)]


def test_the_suite_is_lazy(trained: Backbone) -> None:
    made = islice(AlmanacSuite().cases(Options((128,), 10**9), trained), 2)
    assert len(list(made)) == 2
