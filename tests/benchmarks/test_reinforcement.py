"""benchmarks/reinforcement.py: the suites of a comparison, the rows that records make, and the command line."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import reinforcement
from reinforcement_statistics import Comparison
from reinforcement_suites import Measure, suite_runs

from memfold.core.errors import ConfigError
from memfold.evaluation.records import Record
from memfold.evaluation.suite import load_suite


def test_every_suite_accepts_its_options() -> None:
    runs = suite_runs(1000)
    for suite_run in runs:
        load_suite(suite_run.suite).check(suite_run.options)
    rows = [row for suite_run in runs for row in suite_run.rows]
    assert len(rows) == len(set(rows))
    assert sum(suite_run.expansion for suite_run in runs) == 1


def test_the_numbers_of_questions() -> None:
    questions = [suite_run.options.questions for suite_run in suite_runs(1000, 80)]
    assert questions == [1000, 1000, 1000, 20, 60, 20, 20, 80, 80, 20]
    assert [suite_run.options.questions for suite_run in suite_runs(10)] == [10, 10, 10, 11, 33, 1, 1, 2, 2, 1]


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        (Measure(), {"a": 1.0, "b": 0.0, "c": 0.0}),
        (Measure(hops=2), {"b": 0.0}),
        (Measure(sizes=(50, 100)), {"a": 1.0, "b": 0.0}),
        (Measure(figure="score", maximum=10), {"a": 0.9, "b": 0.0, "c": 0.4}),
    ],
)
def test_the_records_of_a_row(measure: Measure, expected: dict[str, float]) -> None:
    def record(case: str, size: int, hops: int, correct: bool, figures: dict[str, float]) -> Record:
        return Record(
            case, "pooled", "needle", 1, size, "in", "", hops, "Who?", ("x",), "x", "x", correct, figures=figures
        )

    records = [
        record("a", 50, 1, True, {"score": 9}),
        record("b", 100, 2, False, {}),
        record("c", 900, 1, False, {"score": 4}),
    ]
    assert measure.outcomes(records) == pytest.approx(expected)


def test_a_folder_without_a_run_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ConfigError, match="is not a run of reinforcement learning"):
        reinforcement.compare("x", {"sft": tmp_path, "rl 1": tmp_path}, 16, suite_runs(1000), tmp_path / "out")


def test_without_a_name_the_command_writes_the_page(
    comparison: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "frozen-16x.json").write_text(json.dumps(asdict(comparison)))
    page = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["reinforcement.py", "--results", str(tmp_path), "--page", str(page)])
    assert reinforcement.main() == 0
    assert "## frozen-16x: pooled:16" in page.read_text()


def test_the_command_writes_the_comparison_the_curves_and_the_page(
    comparison: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def compare(name: str, models: dict[str, Path], ratio: int, runs: list[object], out: Path) -> Comparison:
        calls.append((name, list(models), ratio, len(runs), out))
        return comparison

    monkeypatch.setattr(reinforcement, "compare", compare)
    folders = [tmp_path / name for name in ("sft", "rl", "rl-other")]
    for folder in folders:
        folder.mkdir()
    (folders[1] / "curves.png").write_bytes(b"png")
    results, page = tmp_path / "results", tmp_path / "page.md"
    options = ["--suite", "almanac", "--out", "samples", "--results", str(results), "--page", str(page)]
    monkeypatch.setattr(sys, "argv", ["reinforcement.py", "frozen-16x", *map(str, folders), *options])
    assert reinforcement.main() == 0
    assert calls == [("frozen-16x", ["sft", "rl 1", "rl 2"], 16, 3, Path("samples/frozen-16x"))]
    assert json.loads((results / "frozen-16x.json").read_text()) == asdict(comparison)
    assert (results / "frozen-16x-rl-1.png").read_bytes() == b"png"
    assert not (results / "frozen-16x-rl-2.png").exists()
    assert "## frozen-16x: pooled:16" in page.read_text()


def test_a_comparison_needs_two_models(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["reinforcement.py", "frozen-16x", "runs/sft"])
    with pytest.raises(SystemExit):
        reinforcement.main()
    assert "a comparison needs the supervised run and at least one run trained from it" in capsys.readouterr().err
