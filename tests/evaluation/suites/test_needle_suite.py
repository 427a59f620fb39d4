from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from all_knowing import KnowsEverything

from memfold.backbone.model import Backbone
from memfold.cli.main import execute
from memfold.core.document import Document
from memfold.core.errors import ConfigError, MemfoldError
from memfold.core.registry import AnySystem
from memfold.core.types import Answer, Memory, Trace
from memfold.evaluation import folding
from memfold.evaluation.plots import draw
from memfold.evaluation.report import write_report
from memfold.evaluation.runner import Evaluation, run
from memfold.evaluation.suite import Case, Options
from memfold.evaluation.suites import needle
from memfold.evaluation.suites.needle import NeedleSuite
from memfold.evaluation.table import Cell, HeatMap
from memfold.systems.shared.folding import fold

Evaluate = Callable[..., Evaluation]
SMALL = {"suite": "needle", "lengths": (128, 200), "questions": 12, "splits": ("in",), "depths": 3}


def made(backbone: Backbone, **changes: object) -> list[Case]:
    settings = {name: value for name, value in SMALL.items() if name != "suite"} | changes
    return list(NeedleSuite().cases(Options(**settings), backbone))  # type: ignore[arg-type]


def test_every_cell_is_asked_as_often(trained: Backbone) -> None:
    cases = made(trained)
    assert [case.key for case in cases[:6]] == [f"in/128/{depth}/{n}" for n, depth in enumerate([0, 50, 100] * 2)]
    assert [case.sample.kind for case in cases[:6]] == ["number", "word", "uuid", "word", "uuid", "number"]
    assert len({case.key for case in cases}) == len({case.seed for case in cases}) == 12
    for case in cases:
        text, (span,) = case.sample.document.read(), case.sample.evidence
        assert 0.6 * case.size <= len(trained.encode(text)) <= case.size
        assert text[span.start : span.end] == case.sample.support[0]
        assert text.count(case.accepted[0]) == 1
        assert case.sample.question.endswith("?")
    assert cases[0].sample.evidence[0].start == 0
    last = cases[2].sample
    assert last.evidence[0].end == len(last.document.read())


def test_questions_of_one_document_plant_all_their_keys(trained: Backbone) -> None:
    cases = made(trained, per_document=3, lengths=(300,), questions=6)
    assert len({case.seed for case in cases}) == 2
    text = cases[0].sample.document.read()
    assert all(case.accepted[0] in text for case in cases[:3])
    assert len({case.sample.question for case in cases[:3]}) == 3


def test_several_needles_share_a_key_and_all_are_wanted(trained: Backbone) -> None:
    case = made(trained, needles=3, kinds=("code",), lengths=(300,), questions=3)[1]
    assert len(case.accepted) == len(case.sample.evidence) == 3
    starts = [span.start / len(case.sample.document.read()) for span in case.sample.evidence]
    assert starts == sorted(starts)
    assert "3 secret codes" in case.sample.question
    suite = NeedleSuite()
    some = Answer(" and ".join(case.accepted[:2]))
    score = suite.score(case, Trace("?", "full", answer=some), trained)
    assert (score.correct, score.figures) == (False, {"score": 7.0})
    assert suite.score(case, Trace("?", "full", answer=Answer(case.sample.target)), trained).correct  # type: ignore[arg-type]


def test_a_text_of_the_user_is_the_haystack(trained: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "essay.txt"
    path.write_text("Ada went to the sea. The sea was calm. Nobody else came.\n")
    text = made(trained, text=str(path))[1].sample.document.read()
    assert text.startswith("Ada went to the sea.")
    assert text.count("The sea was calm.") > 1  # a short text begins again


def test_the_other_split_says_it_in_other_words(trained: Backbone) -> None:
    cases = made(trained, splits=("in", "out"))
    assert "Nobody but you knows" in cases[-1].sample.document.read()
    assert "Nobody but you knows" not in cases[0].sample.document.read()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kinds": ("numbers",)}, "unknown kind of needle 'numbers'; nearest: 'number'"),
        ({"questions": 5}, "questions = 5 is not possible; allowed: 6 or more"),
        ({"text": "none.txt"}, r"none\.txt does not exist"),
    ],
)
def test_what_makes_no_grid_is_refused(changes: dict[str, object], message: str) -> None:
    settings = {name: value for name, value in SMALL.items() if name != "suite"} | changes
    with pytest.raises(MemfoldError, match=message):
        NeedleSuite().check(Options(**settings))  # type: ignore[arg-type]


def test_lengths_that_the_needles_fill_are_refused(trained: Backbone) -> None:
    with pytest.raises(ConfigError, match="no sentence has room"):
        made(trained, lengths=(24,), needles=4)


def test_the_ends_of_the_scale(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluation = evaluate("full", "pooled:4/bare", **SMALL)
    deep = KnowsEverything(evaluation, wrong=lambda case: case.key.startswith("in/200/50/"))
    records = run(evaluation, tmp_path, deep)
    broken = next(record for record in records if record.case == "in/128/0/0" and record.system == "full")
    records = [replace(one, error="policy: no", correct=False, figures={}) if one is broken else one for one in records]
    tables = {table.title: table for table in evaluation.suite.tables(records, evaluation.labels)}
    rows = {row.names: row.cells for row in tables["Needle, split in"].rows}
    assert [cell.value for cell in rows["all", "pooled:4/bare"]] == [8.5, 1.0, pytest.approx(10 / 12), 0.0]
    assert [cell.value for cell in rows["128", "full"]] == [8.5, 5.5, pytest.approx(5 / 6), 0.5]
    depths = {
        row.names: [cell.value for cell in row.cells] for row in tables["Exact by depth, per cent, split in"].rows
    }
    assert depths["pooled:4/bare",] == [1.0, 0.5, 1.0]
    full, pooled = evaluation.suite.plots(records, evaluation.labels)
    assert isinstance(pooled, HeatMap)
    assert (pooled.name, pooled.xs, pooled.ys) == ("needle-in-pooled-4-bare", ("128", "200"), ("0", "50", "100"))
    assert [[cell.value for cell in row] for row in pooled.cells] == [[10.0, 10.0], [10.0, 1.0], [10.0, 10.0]]
    assert draw(full, tmp_path).read_bytes().startswith(b"\x89PNG")
    result = write_report(evaluation, records, tmp_path, 0.0)
    assert result["plots"] == ["needle-in-full.png", "needle-in-pooled-4-bare.png"]
    assert (result["arguments"]["depths"], result["arguments"]["needles"]) == (3, 1)
    assert "Options of the suite: cells even, depths 3, needles 1.\n" in (tmp_path / "table.md").read_text()


def test_long_documents_of_a_turn_come_in_pieces(
    evaluate: Evaluate, trained: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not any(case.pieces for case in made(trained))
    monkeypatch.setattr(needle, "PIECES_FROM", 600)
    cases = made(trained, lengths=(600,), questions=6)
    for case in cases:
        assert "".join(piece.read() for piece in case.pieces) == case.sample.document.read()
    turns = [{piece.source for case in turn for piece in case.pieces} for turn in (cases[:3], cases[3:])]
    assert not turns[0] & turns[1]
    assert sum(len(case.pieces) for case in cases[:3]) >= len(turns[0]) + 4
    folded: list[str] = []

    def counting(system: AnySystem, documents: Sequence[Document], backbone: Backbone) -> list[Memory]:
        folded.extend(document.source for document in documents)
        return fold(system, documents, backbone)

    monkeypatch.setattr(folding, "fold", counting)
    evaluation = evaluate("pooled:4", **SMALL | {"lengths": (600,), "questions": 6})
    records = run(evaluation, tmp_path / "pooled", KnowsEverything(evaluation))
    assert all(record.correct for record in records)
    texts = {case.key: len(trained.encode(case.sample.document.read())) for case in cases}
    assert all(abs(record.cost.document_tokens - texts[record.case]) < 12 for record in records)
    assert not any(name.startswith("needle") for name in folded)
    folded.clear()
    evaluation = evaluate("full", **SMALL | {"lengths": (600,), "questions": 6})
    run(evaluation, tmp_path / "full", KnowsEverything(evaluation))
    assert sum(name.startswith("needle") for name in folded) == 6  # text is folded whole


def test_a_heat_map_may_have_holes(tmp_path: Path) -> None:
    path = draw(HeatMap("hole", "Title", "x", ("1", "2"), "y", ("a",), ((Cell(None), Cell(0.5)),)), tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_bad_usage_is_one_line_before_a_model_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["almanac", "--depths", "3"], "--depths has no effect in suite 'almanac'; leave it out, or use suite needle"),
        (["almanac", "--kind", "uuid"], "unknown kind of question 'uuid'; known: absent"),
        (
            ["reconstruction", "--kind", "uuid"],
            "--kind has no effect in suite 'reconstruction'; leave it out, or use suite almanac or needle or strings",
        ),
        (["needle", "--depths", "1"], "depths = 1 is not possible"),
        (["needle", "--needles", "0"], "needles = 0 is not possible"),
    ):
        assert execute(["eval", *arguments, "--model", "no-such-folder"]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
