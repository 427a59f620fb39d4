"""A run that is killed and resumed ends as one that was left alone, bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memfold.core.errors import CheckpointError
from memfold.training import checkpoint
from memfold.training.loop import train
from memfold.training.recipe import Recipe, SupervisedEntry, read_recipe

RECIPE = """
stage = "cpt1"
parent = "{parent}"
steps = 7
tokens = 100
micro_batches = 2
predecessor_loss = 0.3
validate_every = 2
validation_batches = 1
checkpoint_every = 2
freeze = ["model.norm.weight"]

[[mixture]]
task = "group"
weight = 0.5
sizes = [8]
settings = {{ ratios = [4, 8], max_gap = 50 }}
samples = 4
level = 1

[[mixture]]
task = "almanac"
system = "full"
weight = 0.5
sizes = [48]
samples = 3
level = 0

[[groups]]
match = ["*proj.weight"]
kind = "muon"
lr = 0.01

[[groups]]
match = ["*"]
"""

# Trains until step 5 is reported and the checkpoint of step 4 is written, then waits to be killed.
SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from memfold.training.loop import train
from memfold.training.recipe import read_recipe

def report(metrics):
    print(metrics["step"], flush=True)
    if metrics["step"] == 5:
        sys.stdin.read()

train(read_recipe(Path(sys.argv[1])), Path(sys.argv[2]), report=report)
"""


def metrics(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "tokens_per_second"} for line in found]


def assert_same_bits(left: Any, right: Any) -> None:
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same_bits(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same_bits(one, other)
    else:
        assert left == right


def killed(recipe: Path, run: Path) -> None:
    """Run the script in a separate process and kill it during training."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(recipe), str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process:
        steps = [line.strip() for line in iter(process.stdout.readline, "5\n") if line]
        process.kill()
    assert (steps, process.returncode) == (["1", "2", "3", "4"], -9)


def test_resuming_after_a_kill_equals_an_unbroken_run(parent: str, tmp_path: Path) -> None:
    path, broken, whole = tmp_path / "recipe.toml", tmp_path / "broken", tmp_path / "whole"
    path.write_text(RECIPE.format(parent=parent))
    killed(path, broken)
    assert [line["step"] for line in metrics(broken)] == [1, 2, 3, 4, 5]
    assert not (broken / "model").exists()
    recipe = read_recipe(path)
    train(recipe, broken, resume=True)
    train(recipe, whole)
    assert metrics(broken) == metrics(whole)
    assert [line["step"] for line in metrics(whole)] == [1, 2, 3, 4, 5, 6, 7]
    for name in (
        "model/model.safetensors",
        "model/heads.safetensors",
        "model/memfold.json",
        "recipe.json",
        "step-000006/model/model.safetensors",
        "step-000007/model/tokenizer.json",
    ):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    states = [torch.load(run / "step-000007" / "training.pt", weights_only=True) for run in (broken, whole)]
    assert states[0]["optimisers"][0]["state"]
    assert states[0]["extra"]["predecessor"]
    assert_same_bits(*states)


@pytest.fixture
def short(recipe: Recipe) -> Recipe:
    return replace(
        recipe,
        mixture=(SupervisedEntry("group", 1, (8,), settings={"ratios": [8]}, samples=2, level=1),),
        tokens=20,
        micro_batches=1,
    )


def test_a_kill_while_a_checkpoint_is_written_goes_back_to_the_one_before(short: Recipe, tmp_path: Path) -> None:
    train(short, tmp_path)
    whole = metrics(tmp_path)
    (tmp_path / "step-000004").rename(tmp_path / "step-000004.partial")
    assert checkpoint.newest(tmp_path).name == "step-000002"
    train(short, tmp_path, resume=True)
    assert metrics(tmp_path) == whole
    assert not (tmp_path / "step-000004.partial").exists()


def test_a_kill_while_a_line_of_metrics_is_written_loses_that_line_only(short: Recipe, tmp_path: Path) -> None:
    train(short, tmp_path)
    whole = metrics(tmp_path)
    (tmp_path / "step-000004").rename(tmp_path / "gone")
    text = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(text[:-30])
    train(short, tmp_path, resume=True)
    assert metrics(tmp_path) == whole


def test_a_damaged_checkpoint_is_named(short: Recipe, tmp_path: Path) -> None:
    train(short, tmp_path)
    state = tmp_path / "step-000004" / "training.pt"
    state.write_bytes(state.read_bytes()[:200])
    with pytest.raises(
        CheckpointError, match=r"step-000004 is damaged: .*delete it to resume from the previous one"
    ) as raised:
        train(short, tmp_path, resume=True)
    assert "\n" not in str(raised.value)


def test_only_the_newest_two_checkpoints_are_kept(short: Recipe, tmp_path: Path) -> None:
    train(replace(short, steps=5, checkpoint_every=1), tmp_path)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-000004", "step-000005"]


def test_a_finished_run_resumed_changes_nothing(short: Recipe, tmp_path: Path) -> None:
    train(short, tmp_path)
    before = (tmp_path / "model" / "model.safetensors").read_bytes(), (tmp_path / "metrics.jsonl").read_text()
    train(short, tmp_path, resume=True)
    assert ((tmp_path / "model" / "model.safetensors").read_bytes(), (tmp_path / "metrics.jsonl").read_text()) == before


def test_a_run_from_before_a_setting_was_there_goes_on(short: Recipe, tmp_path: Path) -> None:
    train(short, tmp_path)
    stored = json.loads((tmp_path / "recipe.json").read_text())
    del stored["activation_checkpointing"], stored["mixture"][0]["files"]
    (tmp_path / "recipe.json").write_text(json.dumps(stored))
    train(short, tmp_path, resume=True)
    stored["mixture"][0]["weight"] = 0.123
    (tmp_path / "recipe.json").write_text(json.dumps(stored))
    with pytest.raises(CheckpointError, match="was started with mixture = "):
        train(short, tmp_path, resume=True)
