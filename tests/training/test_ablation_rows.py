"""benchmarks/ablations.py: a row is trained, measured on the same samples as the others, and not run twice."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from memfold.evaluation.ablations import read_results

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "ablations.py"
BASELINE = """
stage = "cpt2"
parent = "{parent}"
steps = 4
tokens = 1
precision = "float32"
validate_every = 2
validation_batches = 1
checkpoint_every = 1
settings = {{ wrapper = "span" }}
[[mixture]]
task = "almanac"
weight = 0.5
sizes = [48]
level = 0
[[mixture]]
task = "reconstruction"
weight = 0.5
sizes = [32]
level = 0
"""


@pytest.fixture
def script(parent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script with two small rows; `run_script` returns its exit code."""
    spec = importlib.util.spec_from_file_location("ablation_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "ablation_script", module)
    spec.loader.exec_module(module)
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    (recipes / "baseline.toml").write_text(BASELINE.format(parent=parent))
    (recipes / "window-32.toml").write_text('like = "baseline.toml"\nsettings = { window = 32 }\n')
    monkeypatch.setattr(module, "RECIPES", recipes)
    options = [
        "--runs",
        "runs",
        "--results",
        "results",
        "--page",
        "docs/page.md",
        "--lengths",
        "32,48",
        "--questions",
        "4",
        "--texts",
        "2",
        "--batches",
        "1",
        "--fold-runs",
        "2",
    ]

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["ablations.py", *arguments, *options])
        code: int = module.main()
        return code

    module.run_script = run
    monkeypatch.chdir(tmp_path)
    return module


def test_rows_are_run_on_the_same_samples_and_put_on_the_page(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert script.run_script("--steps", "2") == 0
    baseline, row = read_results(Path("results"))
    assert (baseline.row, row.row, baseline.changed, row.changed) == ("baseline", "window-32", {}, {"window": 32})
    assert baseline.trained["steps"] == row.trained["steps"] == 2
    assert baseline.one_hop.keys() == row.one_hop.keys()
    assert baseline.losses.keys() == row.losses.keys() == {"almanac", "reconstruction"}
    assert all(baseline.losses[task].keys() == row.losses[task].keys() != set() for task in row.losses)
    assert len(baseline.rouge) == 2
    assert (len(baseline.fold_times), len(row.fold_times)) == (0, 2)
    assert set(baseline.curves) == {"almanac", "reconstruction"}
    assert [step for step, _ in row.curves["almanac"]] == [2]
    assert "| window-32 | window 32 |" in Path("docs/page.md").read_text()
    assert Path("docs/page.png").exists()
    monkeypatch.setattr(script, "run_row", None)  # nothing is left to run
    assert script.run_script("--steps", "2") == 0


def test_an_interrupted_row_goes_on_where_it_was(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(script, "_measure", stop)
        with pytest.raises(KeyboardInterrupt):
            script.run_script("baseline")
    metrics = Path("runs/baseline/metrics.jsonl")
    lines = metrics.read_text().splitlines(keepends=True)
    shutil.rmtree("runs/baseline/step-000004")  # as if it had been interrupted after the third step
    shutil.rmtree("runs/baseline/model")
    assert script.run_script("baseline") == 0
    assert [json.loads(line)["loss"] for line in metrics.read_text().splitlines()] == [
        json.loads(line)["loss"] for line in lines
    ]
    assert [result.row for result in read_results(Path("results"))] == ["baseline"]


def test_a_row_that_is_not_there_and_a_run_of_other_steps_are_one_line(
    script: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.run_script("windw-32") == 2
    assert capsys.readouterr().err == "unknown row 'windw-32'; nearest: 'window-32'; known: baseline, window-32\n"
    Path("runs/baseline/model").mkdir(parents=True)
    Path("runs/baseline/recipe.json").write_text(json.dumps({"steps": 9}))
    assert script.run_script("baseline") == 2
    assert "runs/baseline was started with" in capsys.readouterr().err
