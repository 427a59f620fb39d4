"""Recipes of reinforcement learning for published sizes, made small; in one process and two by benchmarks/proof.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from memfold.backbone.adapter import is_lora
from memfold.backbone.folder import load_backbone
from memfold.core.config import build
from memfold.core.errors import ConfigError, DataError
from memfold.rl.loop import Run, prepare, step, train
from memfold.rl.proof import small
from memfold.rl.recipe import RlRecipe
from memfold.training.recipe_file import read_values

RECIPES = Path(__file__).parents[2] / "recipes" / "pooled"


def recipe(size: str, folder: Path, **changes: Any) -> RlRecipe:
    made = build(RlRecipe, read_values(RECIPES / size / "rl.toml"))
    return replace(small(made, size, folder), **changes)


def weights(run: Run) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in run.backbone.parameters()}


@pytest.mark.parametrize("size", ["qwen2.5-7b", "qwen2.5-32b"])
def test_two_steps_change_what_trains_and_nothing_else(size: str, tmp_path: Path) -> None:
    made = recipe(size, tmp_path)
    run = prepare(made, tmp_path / "run")
    before = weights(run)
    lines = [step(run) for _ in range(made.steps)]
    assert all(line["norm"] > 0 and 0 < line["figures"]["reward"] < 1 for line in lines)
    assert all(line["figures"]["apart"] < made.drift and not line["failures"] for line in lines)
    changed = {name for name, weight in weights(run).items() if not torch.equal(weight, before[name])}
    whole = {name for name in before if name.startswith(("model.layers.0.", "model.embed_tokens.", "lm_head."))}
    assert changed == whole | {name for name in before if is_lora(name)}
    kinds = [type(module).__name__ for module in run.backbone.model.modules()]
    assert "Linear4bit" in kinds
    assert (run.backbone.frame, run.backbone.trained["pooled"]["wrapper"]) == ("chatml", "slot")


def test_adapters_have_a_learning_rate_of_their_own(tmp_path: Path) -> None:
    run = prepare(recipe("qwen2.5-7b", tmp_path), tmp_path / "run")
    names = {id(weight): name for name, weight in run.backbone.parameters()}
    groups = [
        {is_lora(names[id(weight)]) for weight in optimiser.param_groups[0]["params"]}
        for _, optimiser in run.trainer.optimisers.parts
    ]
    assert groups == [{True}, {False}]


def test_a_run_with_adapters_resumes_and_is_read_back(tmp_path: Path) -> None:
    made = recipe("qwen2.5-7b", tmp_path, checkpoint_every=1)
    whole = train(made, tmp_path / "whole")

    def stop(line: dict[str, Any]) -> None:
        if line["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path / "broken", report=stop)
    train(made, tmp_path / "broken", resume=True)
    for name in ("adapter_model.safetensors", "full.safetensors"):
        assert (tmp_path / "broken/model" / name).read_bytes() == (tmp_path / "whole/model" / name).read_bytes(), name
    read = load_backbone(tmp_path / "whole" / "model")
    assert read.adapter is None
    assert read.readable == whole.readable == (load_backbone(str(made.parent)).fingerprint(),)


def test_dropout_and_missing_data_are_refused(tmp_path: Path) -> None:
    made = build(RlRecipe, read_values(RECIPES / "qwen2.5-7b" / "rl.toml"))
    assert made.fqlora is not None
    with pytest.raises(ConfigError, match=r"fqlora\.dropout = 0\.1 is not possible; allowed: 0: replies are scored"):
        replace(made, fqlora=replace(made.fqlora, dropout=0.1))
    with pytest.raises(ConfigError, match="engine = 'vllm' with fqlora is not possible: it takes plain weights over"):
        replace(made, engine="vllm")
    with pytest.raises(DataError, match=r"no data at data/hotpotqa/hotpot_train_v1\.1\.json, data/triviaqa/"):
        prepare(made, tmp_path / "run")
