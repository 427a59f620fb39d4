"""Two processes on one machine, joined by gloo, train what one process trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from two_processes import launched

from memfold.training.loop import train
from memfold.training.processes import Processes
from memfold.training.recipe import read_recipe

# The second entry gives the projection no gradient, so only one of two processes has one.
RECIPE = """
stage = "cpt1"
parent = "{parent}"
steps = 4
tokens = 100
micro_batches = {micro_batches}
precision = "float32"
validate_every = 2
validation_batches = 1
checkpoint_every = 2

[[mixture]]
task = "group"
weight = 0.5
sizes = [8]
settings = {{ ratios = [8] }}
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
match = ["*"]
lr = 1e-3
"""


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_equal_one_with_twice_the_batches(parent: str, tmp_path: Path) -> None:
    recipes = {}
    for count in (1, 2):
        recipes[count] = tmp_path / f"{count}.toml"
        recipes[count].write_text(RECIPE.format(parent=parent, micro_batches=count))
    launched(["-m", "memfold", "train", str(recipes[1]), "--out", "both"], tmp_path)
    train(read_recipe(recipes[2]), tmp_path / "alone")
    both, alone = metrics(tmp_path / "both"), metrics(tmp_path / "alone")
    assert [line["step"] for line in both] == [1, 2, 3, 4]
    for ours, theirs in zip(both, alone, strict=True):
        assert ours["tokens"] == theirs["tokens"]
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=2e-4)
        assert ours["norm"] == pytest.approx(theirs["norm"], rel=1e-3)
        assert ours.get("validation", {}).keys() == theirs.get("validation", {}).keys()
    for name in ("model.safetensors", "heads.safetensors"):
        weights = [load_file(tmp_path / run / "model" / name) for run in ("both", "alone")]
        for key, weight in weights[0].items():
            assert torch.allclose(weight, weights[1][key], atol=1e-5), key


def test_alone_nothing_is_said() -> None:
    alone, weight = Processes(), nn.Parameter(torch.ones(2))
    alone.sum_gradients([weight])
    alone.wait()
    assert (alone.first, alone.count, weight.grad, alone.gather("a")) == (True, 1, None, ["a"])
