"""`memfold train --dry-run` for the published sizes, and `memfold export`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from command_result import Cli
from transformers import AutoModelForCausalLM

from memfold.backbone.adapters import Adapter, attach, is_lora
from memfold.backbone.folder import load_backbone, save_backbone
from memfold.cli import planning
from memfold.core.errors import DataError
from memfold.training.recipe import Recipe

RECIPES = Path(__file__).parents[2] / "recipes"
SIZED = sorted(path for stage in ("cpt1", "cpt2", "sft") for path in RECIPES.glob(f"pooled/qwen*/{stage}.toml"))

PLAN = (
    r"[\d,]+ parameters trained \([\d,]+ in full, [\d,]+ in LoRA, [\d,]+ of the pro.*, [\d,]+ frozen",
    r"[\d,]+ of [\d,]+ sequences: about [\d,]+ token positions per step .*, [\d.]+ billion in total",
    r"memory    about [\d.]+ GB on each",
    r"time      about [\d,]+ device hours",
)


@pytest.mark.parametrize("path", SIZED, ids=lambda path: "/".join(path.parts[-2:]))
def test_every_recipe_is_planned_without_weights_or_data(cli: Cli, path: Path) -> None:
    result = cli("train", path, "--dry-run")
    assert result.code == 0, result.err
    assert f"{path.stem} of {path.parent.name}" in result.out
    for pattern in PLAN:
        assert re.search(pattern, result.out), pattern
    assert f"run       runs/pooled-{path.parent.name}-{path.stem}" in result.out


@pytest.mark.parametrize("size", ["7b", "32b"])
def test_reinforcement_learning_is_planned_without_weights_or_data(cli: Cli, size: str) -> None:
    result = cli("train", RECIPES / f"pooled/qwen2.5-{size}/rl.toml", "--dry-run")
    assert result.code == 0, result.err
    shown = re.sub(r"\s+", " ", result.out)
    assert f"stage rl of qwen2.5-{size}, starting from runs/pooled-qwen2.5-{size}-sft" in shown
    assert "steps 300 of 128 questions x" in shown
    assert "33% pooled/questions (hotpotqa), documents of 4096 tokens" in shown
    assert re.search(r"memory about \d+\.\d GB on each: .* keys and values of replies", shown)


def test_a_model_that_does_not_fit_is_told_in_numbers(cli: Cli, tmp_path: Path) -> None:
    text = (RECIPES / "pooled/qwen2.5-7b/sft.toml").read_text()
    (tmp_path / "small.toml").write_text(text.replace("memory = 80", "memory = 16"))
    result = cli("train", "small.toml", "--dry-run")
    assert result.code == 2
    assert "memory    about" in result.out
    assert re.fullmatch(
        r"qwen2\.5-7b with these settings needs about \d+ GB on each device, which has 16 GB: lower fqlora.*",
        result.message,
    )


def test_a_run_is_refused_before_it_loads_anything(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = RECIPES / "pooled/qwen2.5-32b/cpt1.toml"
    monkeypatch.setattr(planning, "device_memory", lambda: 24.0)
    assert "qwen2.5-32b with these settings needs about" in cli("train", recipe).message
    monkeypatch.setattr(planning, "device_memory", lambda: 80.0)
    assert "needs about" in cli("train", recipe).message  # one process has to hold what the recipe spreads over eight
    monkeypatch.setattr(planning, "device_memory", lambda: 800.0)
    result = cli("train", recipe)
    assert result.code == 2
    assert result.message.startswith("no data at data/dclm, data/cci2, ")


def test_a_run_is_planned_for_the_processes_that_it_has(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(recipe: Recipe, *rest: object) -> None:
        raise DataError(f"reached with {recipe.hardware.devices} devices")

    monkeypatch.setattr(planning, "device_memory", lambda: 80.0)
    monkeypatch.setattr("memfold.cli.train._check_run", lambda *rest: None)  # the data of the recipe are not here
    monkeypatch.setattr("memfold.training.loop.train", reached)
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert cli("train", RECIPES / "pooled/qwen2.5-32b/cpt1.toml").message == "reached with 8 devices"


def test_a_trained_model_is_exported(cli: Cli, models: dict[str, str], tmp_path: Path) -> None:
    assert cli("export", models["first"], "-o", "plain").code == 0
    tokens = torch.tensor([[5, 60, 7]])
    found = [AutoModelForCausalLM.from_pretrained(where)(tokens).logits for where in (models["first"], "plain")]
    assert torch.equal(*found)
    backbone = load_backbone(models["first"])
    attach(backbone, Adapter(models["first"], 2, 4.0, ("model.layers.1.mlp.up_proj",)))
    with torch.no_grad():
        for name, weight in backbone.parameters():
            if is_lora(name):
                weight += 0.2
    save_backbone(backbone, tmp_path / "run" / "model")
    result = cli("export", "run", "-o", "adapter")
    assert result.code == 0
    assert result.err.startswith(
        f"done: adapter is a LoRA adapter of {models['first']} that peft and --model can load ("
    )
    assert cli("export", "run", "-o", "whole", "--merge").err.startswith("done: whole is a model that AutoModelFor")
    (tmp_path / "page.txt").write_text("Ada Lorn was born in Velm. She is a writer.")
    answers = {}
    for name in ("run", "adapter", "whole", "plain"):
        asked = cli("ask", "page.txt", "Where was Ada Lorn born?", "--system", "full", "--model", name, "--json")
        assert asked.code == 0, asked.err
        folder = tmp_path / "run" / "model" if name == "run" else tmp_path / name
        answers[name] = load_backbone(folder).model(tokens).logits
    torch.testing.assert_close(answers["run"], answers["adapter"])
    torch.testing.assert_close(answers["run"], answers["whole"])
    assert (answers["run"] - answers["plain"]).abs().max() > 1e-3


def test_what_cannot_be_exported_is_refused(cli: Cli, models: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    no_adapter = cli("export", models["first"], "-o", "new", "--merge").message
    assert no_adapter == f"--merge has no effect: {models['first']} has no LoRA adapter; leave --merge out"
    refused = cli("export", models["first"], "-o", "full").message
    assert refused == "full exists and is not an empty folder; name a new one"
    assert cli("export", "./nothing", "-o", "new").message.startswith("no model at './nothing'")
    assert cli("export", models["first"], "-o", "new", "--dtype", "int4").message.startswith("unknown dtype 'int4'")
