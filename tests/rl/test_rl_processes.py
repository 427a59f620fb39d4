"""Two processes on one machine, joined by gloo, learn what one process learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from two_processes import launched

from memfold.core.config import build
from memfold.rl.loop import train
from memfold.rl.recipe import RlRecipe
from memfold.training.recipe_file import read_values

RECIPE = """
stage = "rl"
parent = "{parent}"
steps = 2
reward = "{reward}"
preset = "memagent"
questions = 4
updates = 2
rollouts = 3
reply_tokens = 6
validate_every = 2
validation_questions = 2
checkpoint_every = 2

[[mixture]]
task = "almanac"
weight = 0.5
sizes = [48, 64]
settings = {{ ratios = [8] }}
level = 0

[[mixture]]
task = "almanac"
system = "full"
weight = 0.5
sizes = [48]
level = 0
"""


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_equal_one(parent: str, rewards: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "rl.toml"
    recipe.write_text(RECIPE.format(parent=parent, reward=f"{rewards}:early"))
    launched(["-m", "memfold", "train", str(recipe), "--out", "both"], tmp_path)
    train(build(RlRecipe, read_values(recipe)), tmp_path / "alone")
    both, alone = metrics(tmp_path / "both"), metrics(tmp_path / "alone")
    assert [line["step"] for line in both] == [0, 1, 2]
    assert both[0].keys() == alone[0].keys()
    assert both[0]["validation"].keys() == alone[0]["validation"].keys()
    for name, values in both[0]["validation"].items():
        assert values == pytest.approx(alone[0]["validation"][name], abs=1e-4)
    for ours, theirs in zip(both[1:], alone[1:], strict=True):
        assert ours["tokens"] == theirs["tokens"]
        assert ours["figures"] == pytest.approx(theirs["figures"], abs=1e-4)
        assert ours["rewards"] == pytest.approx(theirs["rewards"], abs=1e-4)
        assert ours["norm"] == pytest.approx(theirs["norm"], rel=1e-3)
        assert ours["norm"] > 0
        assert ours.get("validation", {}).keys() == theirs.get("validation", {}).keys()
    states = torch.load(tmp_path / "both/step-000002/training.pt", weights_only=True)["extra"]["processes"]
    assert len(states) == 2
    weights = [load_file(tmp_path / run / "model" / "model.safetensors") for run in ("both", "alone")]
    for key, weight in weights[0].items():
        assert torch.allclose(weight, weights[1][key], atol=1e-5), key
