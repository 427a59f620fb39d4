import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from all_knowing import KnowsEverything

from memfold.backbone.model import Backbone
from memfold.core.errors import ConfigError, DataError, MemfoldError
from memfold.core.policy import Request
from memfold.core.types import Answer, Reply, Trace
from memfold.evaluation.grouping import Group
from memfold.evaluation.note_figures import NOTE_FIGURES, NOTED
from memfold.evaluation.records import Record, Spent
from memfold.evaluation.report import write_report
from memfold.evaluation.runner import Evaluation, run
from memfold.evaluation.suite import Case, Options, with_options
from memfold.evaluation.suites.ruler_hqa import RulerHqaSuite, length_name
from memfold.evaluation.table import Table
from memfold.evaluation.wrong_answers import CLASSES

Evaluate = Callable[..., Evaluation]
SMALL = {"lengths": (512, 1024), "questions": 12, "splits": ("in",), "per_document": 4}


def made(backbone: Backbone, **changes: object) -> list[Case]:
    return list(RulerHqaSuite().cases(Options(**SMALL | changes), backbone))  # type: ignore[arg-type]


def hotpot(path: Path, count: int) -> tuple[str, ...]:
    rows = []
    for number in range(count):
        context = [
            [f"Ada {number}", [f"Ada {number} wrote book {number}.", "She is old."]],
            [f"Book {number}", ["It is long.", f"It is about town {number}."]],
        ]
        facts = [[f"Ada {number}", 0], [f"Book {number}", 1]]
        question = f"What is the book of Ada {number} about?"
        row = {"_id": str(number), "question": question, "answer": f"town {number}", "type": "bridge"}
        rows.append(row | {"supporting_facts": facts, "context": context})
    path.write_text(json.dumps(rows))
    return (f"hotpotqa={path}",)


def test_the_lengths_are_those_of_the_papers() -> None:
    names = [length_name(length) for length in (*RulerHqaSuite.defaults.lengths, 3_670_016)]
    assert names == ["7K", "14K", "28K", "56K", "112K", "224K", "448K", "896K", "1.75M", "3.5M"]
    assert [length_name(length) for length in (None, 1000)] == ["all", "1000"]


def test_questions_share_documents_and_the_kinds_take_turns(trained: Backbone) -> None:
    cases = made(trained)
    assert [case.key for case in cases[:5]] == [
        "in/512/one-hop/0.0",
        "in/512/two-hop/0.1",
        "in/512/one-hop/0.2",
        "in/512/two-hop/0.3",
        "in/512/one-hop/1.0",
    ]
    assert [len({case.seed for case in cases[start : start + 6]}) for start in (0, 6)] == [2, 2], "4 and 2 questions"
    for case in cases:
        text = case.sample.document.read()
        assert 0.9 * case.size <= len(trained.encode(text)) <= case.size
        assert tuple(text[span.start : span.end] for span in case.sample.evidence) == case.sample.support
        assert case.sample.hops == (2 if "two-hop" in case.key else 1)
    assert cases == made(trained)
    assert cases[0].sample.document != made(trained, seed=1)[0].sample.document
    assert {case.sample.kind for case in made(trained, kinds=("two-hop",))} == {"two-hop"}
    alone = made(trained, per_document=1, questions=4)
    assert [case.sample.kind for case in alone] == ["one-hop", "two-hop"] * 2, "they take turns over documents, too"


def test_questions_of_a_dataset_stand_among_the_articles_of_others(trained: Backbone, tmp_path: Path) -> None:
    data = hotpot(tmp_path / "hotpot.json", 60)
    cases = made(trained, data=data, lengths=(7168, 14336), questions=6)
    assert [case.key for case in cases[::3]] == ["out/7168/hotpotqa/0", "out/14336/hotpotqa/0"]
    for case in cases:
        text = case.sample.document.read()
        assert len(text.split("\n\n")) == (50 if case.size == 7168 else 100)
        assert tuple(text[span.start : span.end] for span in case.sample.evidence) == case.sample.support
    assert len({case.sample.document.source for case in cases}) == 6
    assert {case.sample.split for case in made(trained, data=data, lengths=(7168,), trained_on=("hotpotqa",))} == {"in"}
    with pytest.raises(DataError, match="the rows of hotpotqa have 120 of 200 articles; give more files"):
        made(trained, data=data, lengths=(28672,))


@pytest.mark.parametrize(
    ("answer", "exact", "one_way", "two_way"),
    [
        ("the river Sanu", 1, 1, 1),
        ("The River Sanu.", 1, 1, 1),
        ("Sanu", 1, 1, 1),  # the second of the accepted ones
        ("It is the river Sanu", 0, 1, 1),
        ("the river Sanutor", 0, 0, 1),  # inside of a word
        ("ri", 0, 0, 1),  # a piece of the expected answer
        ("", 0, 0, 1),  # and nothing at all
        ("the river Tor", 0, 0, 0),
    ],
)
def test_three_rules_of_which_the_strictest_decides(
    trained: Backbone, answer: str, exact: int, one_way: int, two_way: int
) -> None:
    case = made(trained)[0]
    accepted = ("the river Sanu", "Sanu")
    case = replace(case, accepted=accepted, sample=replace(case.sample, answers=accepted))
    score = RulerHqaSuite().score(case, Trace("?", "full", answer=Answer(answer, "reply")), trained)
    assert score.figures == {"exact": exact, "contained": one_way, "either_way": two_way}
    assert (score.answer, score.correct) == (answer, bool(exact))


class Fails(KnowsEverything):
    """Cannot be reached for one case."""

    def answer(self, request: Request) -> Reply:
        case = self._case(request)
        if case.key == "in/1024/two-hop/0.1":
            raise DataError("down")
        return super().answer(request)


def shown(tables: list[Table], number: int) -> dict[tuple[str, ...], dict[str, float | None]]:
    table = tables[number]
    return {row.names: dict(zip(table.columns, (cell.value for cell in row.cells), strict=True)) for row in table.rows}


def test_tables_of_a_run_in_which_a_question_failed(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluation = evaluate("full", "retrieval", suite="ruler-hqa", **SMALL)
    policy = Fails(evaluation, wrong=lambda case: case.key == "in/1024/one-hop/0.0")
    records = run(evaluation, tmp_path, policy)
    tables = evaluation.suite.tables(records, evaluation.labels)
    assert [table.title for table in tables] == [
        "RULER-HQA, split in",
        "From the shortest to the longest, split in",
        "Work for a question, split in",
    ]
    accuracy = shown(tables, 0)
    expected = {"exact": 4 / 6, "one-hop": 2 / 3, "two-hop": 2 / 3, "one-way sub-EM": 4 / 6, "two-way sub-EM": 4 / 6}
    assert accuracy["1K", "full"] == pytest.approx(expected)
    assert accuracy["512", "retrieval"] == dict.fromkeys(expected, 1.0)
    assert tables[0].rows[0].cells[0].failed == 1
    assert shown(tables, 1)["full",]["lost"] == pytest.approx(2 / 6)
    assert shown(tables, 2)["1K", "full"]["calls"] == 1.0
    result = write_report(evaluation, records, tmp_path, 0.0)
    assert result["plots"] == ["ruler-hqa-in.png"]
    (figure,) = evaluation.suite.plots(records, evaluation.labels)
    assert [title for title, _ in figure.panels] == [f"{kind}, split in" for kind in ("all", "one-hop", "two-hop")]  # type: ignore[union-attr]
    assert [x for x, _ in figure.panels[0][1]["full"]] == [0.5, 1.0]  # type: ignore[union-attr]


def record(case: str, system: str, *, figures: dict[str, float] | None = None, error: str | None = None) -> Record:
    size = int(case.split("/")[1])
    common = {"seed": 1, "size": size, "split": "in", "kind": "", "hops": 1, "question": "?", "accepted": ("a",)}
    cost = Spent(calls=40, generated_tokens=30, seconds=2.5, fold_seconds=9.0)
    return Record(
        case,
        system,
        "ruler-hqa",
        **common,
        answer="",
        reply="",
        correct=False,
        figures=figures or {},
        error=error,
        cost=cost,
    )  # type: ignore[arg-type]


def test_work_is_that_of_questions_without_error_and_tables_with_few_records() -> None:
    opened = {"blocks_read": 2.0, "evidence_read": 0.5}
    records: Group = [
        record("in/7168/one-hop/0.0", "kvbank", figures=opened),
        record("in/7168/one-hop/0.1", "kvbank", figures={"blocks_read": 4.0, "evidence_read": 1.0}),
        record("in/7168/one-hop/0.2", "kvbank", error="down"),
    ]
    tables = RulerHqaSuite().tables(records, ["kvbank", "full"])
    assert len(tables) == 2, "there is one length"
    work = shown(tables, 1)
    assert work["7K", "kvbank"] == {
        "calls": 40.0,
        "blocks read": 3.0,
        "evidence read": 0.75,
        "generated tokens": 30.0,
        "seconds": 2.5,
        "fold seconds of the document": 9.0,
    }
    assert set(work["7K", "full"].values()) == {None}, "nothing was asked yet"
    assert RulerHqaSuite().tables([], ["kvbank"]) == []


def test_classes_of_wrong_answers_are_shares_of_those_that_have_one() -> None:
    classes = ["early anchoring", "early anchoring", "missed", "other"]
    records: Group = [
        *(replace(record(f"in/7168/one-hop/0.{n}", "kvbank"), wrong=name) for n, name in enumerate(classes)),
        replace(record("in/7168/one-hop/0.4", "kvbank"), correct=True, wrong="missed"),  # a judge found it right
        record("in/7168/one-hop/0.5", "kvbank", error="down"),
        record("in/7168/one-hop/0.0", "full"),
    ]
    table = RulerHqaSuite().tables(records, ["full", "kvbank"])[-1]
    assert table.title == "Wrong answers, split in"
    assert table.columns == ("one-way reading", "early anchoring", "missed", "mix-up", "other")
    (row,) = table.rows
    assert row.names == ("7K", "kvbank")
    assert [cell.value for cell in row.cells] == [0, 0.5, 0.25, 0, 0.25]
    assert {cell.count for cell in row.cells} == {4}
    assert row.cells[1].low == pytest.approx(0.150, abs=1e-3), "Wilson's, for 2 of 4"


def test_blocks_that_a_gate_opened_are_figures_of_the_record(evaluate: Evaluate, tmp_path: Path) -> None:
    label = "kvbank/chunk=128/note=4/threshold=0.2"
    options = {"lengths": (512,), "questions": 2, "splits": ("in",), "per_document": 2, "max_tokens": 4}
    evaluation = evaluate(label, suite="ruler-hqa", **options)
    (one, other) = run(evaluation, tmp_path)
    assert one.error is None
    for found in (one, other):
        own = {"exact", "contained", "either_way", "blocks_read", "evidence_read"}
        assert found.figures.keys() - NOTE_FIGURES.keys() == own
        assert (NOTED in found.figures) is (found.figures["blocks_read"] > 0)
        assert found.figures["evidence_read"] in (0.0, 0.5, 1.0)
        assert 0 <= found.figures["blocks_read"] <= 5
        assert (found.wrong in CLASSES) is not found.correct
    noting = [record for record in (one, other) if NOTED in record.figures]
    tables = evaluation.suite.tables([one, other], evaluation.labels)
    notes = [table for table in tables if table.title == "Notes, split in"]
    assert len(notes) == bool(noting)
    assert all([row.cells[0].count for row in table.rows] == [len(noting)] for table in notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kinds": ("listing",)}, "unknown kind of question 'listing'; known: one-hop, two-hop"),
        ({"level": 1}, "level 1 has no two-hop questions; use --level 2 or 3, or --kind one-hop"),
        ({"per_document": 65}, "per_document = 65 is not possible; allowed: 1 to 64"),
        ({"data": ("squad=x",)}, "unknown dataset of --data 'squad'; "),
        ({"data": ("hotpotqa=x",), "kinds": ("one-hop",)}, "--kind 'one-hop' is for generated documents"),
        ({"trained_on": ("hotpotqa",)}, "unknown dataset of --trained-on 'hotpotqa'"),
    ],
)
def test_options_that_cannot_be_meant(changes: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(MemfoldError, match=message):
        RulerHqaSuite().check(Options(**SMALL | changes))  # type: ignore[arg-type]


def test_options_without_effect(tmp_path: Path) -> None:
    suite = RulerHqaSuite()
    suite.check(Options(**SMALL | {"level": 1, "kinds": ("one-hop",)}))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="--depths has no effect in suite 'ruler-hqa'"):
        with_options(suite, suite.defaults, {"depths": 3})
    with pytest.raises(ConfigError, match="--per-document has no effect in suite 'ruler-hqa' with these options"):
        with_options(suite, suite.defaults, {"data": hotpot(tmp_path / "h.json", 1), "per_document": 2})
