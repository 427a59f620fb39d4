import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from all_knowing import KnowsEverything

from memfold.backbone.origin import commit, hardware
from memfold.core.errors import ConfigError
from memfold.evaluation.plots import load_pyplot
from memfold.evaluation.report import write_report
from memfold.evaluation.runner import Evaluation, run
from memfold.evaluation.table import Cell, Row, Table, average, mean, paired_ratio, proportion

Evaluate = Callable[..., Evaluation]


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (Cell(0.932, 0.91, 0.95, 250), "93.2 % [91.0, 95.0] n=250"),
        (Cell(0.5, 0.2, 0.8, 4, failed=1), "50.0 % [20.0, 80.0] n=4, 1 failed"),
        (Cell(0.0, 0.0, 0.5, 4, failed=4), "error n=4"),
        (Cell(0.972, 0.96, 0.98, 20, share=False), "0.972 [0.960, 0.980] n=20"),
        (Cell(123.45, 100.0, 150.0, 3, share=False), "123.5 [100.0, 150.0] n=3"),
        (Cell(None), "-"),
    ],
)
def test_cells_as_markdown(cell: Cell, text: str) -> None:
    assert cell.markdown() == text


def test_cells_by_hand() -> None:
    assert proportion([True, False, True, True]).value == 0.75
    assert proportion([]) == Cell(None)
    assert mean([1.0, 3.0, float("nan")]).value == 2.0
    assert mean([1.0, 3.0, float("nan")]).count == 2
    assert mean([float("nan")]).value is None
    assert paired_ratio([True, False], [True, True]).value == 0.5
    assert paired_ratio([True, False], [False, False]) == Cell(None, count=2)


def test_averages_by_hand() -> None:
    cell = average([Cell(0.5, 0.2, 0.9, 8, failed=1), Cell(1.0, 0.6, 1.0, 2)])
    assert (cell.value, cell.count, cell.failed) == (0.75, 10, 1), "each has the same weight, however large it is"
    assert (cell.low, cell.high) == pytest.approx((0.75 - 0.25, 0.75 + 0.2))  # hypot(0.3, 0.4) / 2, and 0.4 / 2
    assert average([Cell(0.5, 0.2, 0.9, 8), Cell(None)]).value is None
    assert average([]) == Cell(None)
    assert proportion([1.0, 0.5, 0.0, 0.5]) == replace(proportion([True, True, False, False]), value=0.5)


def test_a_table_as_markdown() -> None:
    table = Table("Title", ("tokens", "system"), ("all",), (Row(("128", "full"), (Cell(1.0, 0.5, 1.0, 3),)),), "Note.")
    assert table.markdown().splitlines() == [
        "## Title",
        "",
        "Note.",
        "",
        "| tokens | system | all |",
        "| --- | --- | --- |",
        "| 128 | full | 100.0 % [50.0, 100.0] n=3 |",
    ]


def test_a_report_holds_tables_plots_and_their_origin(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluation = evaluate("full", "pooled:8", "closed-book")
    records = run(evaluation, tmp_path, KnowsEverything(evaluation, wrong=lambda case: case.key.startswith("in/96")))
    returned = write_report(evaluation, records, tmp_path, 1.25)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result == json.loads(json.dumps(returned))
    assert result["suite"] == "almanac"
    assert result["arguments"]["lengths"] == [96, 160]
    assert result["model"]["fingerprint"] == evaluation.model.fingerprint()
    assert result["systems"]["pooled:8"]["ratio"] == 8
    assert result["untrained"] == ["pooled:8"]
    assert result["samples"] == 24
    assert {"cpu", "cores", "threads", "torch"} <= set(result["hardware"])
    first = result["tables"][0]
    assert first["title"] == "Accuracy, split in"
    assert first["rows"][0]["names"] == ["all", "full"]
    assert first["rows"][0]["cells"][0]["value"] == 0.5
    assert result["plots"] == ["accuracy-in.png", "accuracy-out.png"]
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in result["plots"])
    text = (tmp_path / "table.md").read_text()
    assert text.startswith("# almanac\n")
    assert evaluation.model.fingerprint()[:12] in text
    assert "| all | full | 50.0 % [15.0, 85.0] n=4 |" in text
    assert "- pooled:8: the model was not trained at this ratio." in text
    assert "## Share of full, split in" in text
    assert "## Cost" in text


def test_errors_are_told_once_for_each_system(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluation = evaluate("full", questions=4)
    records = run(evaluation, tmp_path, KnowsEverything(evaluation))
    broken = [replace(record, error=f"policy: {record.case}", correct=False) for record in records]
    result = write_report(evaluation, broken, tmp_path, 0.0)
    assert result["errors"] == {"full": f"policy: {records[0].case}"}
    text = (tmp_path / "table.md").read_text()
    assert text.count("samples failed and count as wrong") == 1
    assert "error n=1" in text


def test_shared_documents_are_told_with_the_intervals(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluation = evaluate("full", questions=4, per_document=2)
    write_report(evaluation, run(evaluation, tmp_path, KnowsEverything(evaluation)), tmp_path, 0.0)
    assert "the intervals are too narrow" in (tmp_path / "table.md").read_text()


def test_a_missing_plotting_library_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'memfold\[train\]'"):
        load_pyplot()


def test_origin_names_commit_and_machine(evaluate: Evaluate) -> None:
    found = commit()
    assert found is None or len(found.removesuffix("-dirty")) == 40
    described = hardware(evaluate("full").model.weights().device)
    assert described["device"] == "cpu"
    assert described["cores"] >= 1
