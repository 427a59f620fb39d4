"""FQLoRA: which layers train in full, what trains at which rate, and that nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memfold.backbone.adapters import is_lora
from memfold.backbone.folder import load_backbone, save_backbone
from memfold.core.errors import ConfigError
from memfold.training.fqlora import FQLoRA, adapt, even_layers, targets
from memfold.training.loop import prepare, step, train, validate
from memfold.training.proof import small, small_model
from memfold.training.recipe import Recipe, read_recipe

RECIPES = Path(__file__).parents[2] / "recipes" / "pooled"
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.mark.parametrize(
    ("layers", "full", "chosen"),
    [
        (28, 10, [0, 3, 6, 9, 12, 15, 18, 21, 24, 27]),  # as appendix I.1 lists them
        (64, 23, [0, 3, 6, 9, 11, 14, 17, 20, 23, 26, 29, 32, 34, 37, 40, 43, 46, 49, 52, 54, 57, 60, 63]),
        (24, 9, [0, 3, 6, 9, 12, 14, 17, 20, 23]),
        (5, 5, [0, 1, 2, 3, 4]),
        (4, 2, [0, 3]),
        (4, 1, [0]),
        (4, 0, []),
    ],
)
def test_layers_at_even_intervals_by_hand(layers: int, full: int, chosen: list[int]) -> None:
    assert list(even_layers(layers, full)) == chosen


def test_more_layers_than_there_are_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"full_layers = 5 is not possible; the model has 4 layers"):
        even_layers(4, 5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"full_layers": -1}, r"full_layers = -1 is not possible; allowed: 0 or more"),
        ({"full_layers": 1, "rank": 0}, r"rank = 0 is not possible"),
        ({"full_layers": 1, "dropout": 1.0}, r"dropout = 1\.0 is not possible"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FQLoRA(**values)


def prepared(name: str, folder: Path, **changes: Any) -> Recipe:
    return replace(small(read_recipe(RECIPES / f"{name}.toml"), folder, 1), **changes)


RATES = {  # of LoRA, of the projection, of the rest: table 9
    "cpt1": (1e-4, 3e-4, 5e-5),
    "cpt2": (1e-4, 2e-4, 5e-5),
    "sft": (1e-4, None, 2e-5),
}


@pytest.mark.parametrize("stage", RATES)
def test_groups_have_the_rates_of_the_paper_and_nothing_else_trains(stage: str, tmp_path: Path) -> None:
    run = prepare(prepared(f"qwen2.5-7b/{stage}", tmp_path), tmp_path / "run")
    names = {id(weight): name for name, weight in run.backbone.parameters()}
    groups = {
        (group.lr, group.weight_decay): {names[id(weight)] for weight in optimiser.param_groups[0]["params"]}
        for group, optimiser in run.optimisers.parts
    }
    lora, projection, full = RATES[stage]
    second = {f"{part}.{name}" for name in MATRICES for part in ("mlp", "self_attn")}
    expected = {
        name
        for name in names.values()
        if is_lora(name) and name.split(".")[2] == "1" and ".".join(name.split(".")[3:5]) in second
    }
    assert len(expected) == 2 * len(MATRICES)
    assert groups.pop((lora, 0.0)) == expected
    if projection is not None:
        assert groups.pop((projection, 0.0)) == {"heads.pooled.weight"}
    ends = {"model.embed_tokens.weight", "lm_head.weight"}
    assert groups.pop((full, 0.1)) == ends | {name for name in names.values() if name.startswith("model.layers.0.")}
    assert groups == {}


def weights(run: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in run.backbone.parameters()}


def test_a_step_changes_what_trains_and_nothing_else(tmp_path: Path) -> None:
    run = prepare(prepared("qwen2.5-7b/cpt1", tmp_path), tmp_path / "run")
    before = weights(run)
    for _ in range(2):  # LoRA matrices A move once B is not zero
        step(run)
    changed = {name for name, weight in weights(run).items() if not torch.equal(weight, before[name])}
    trained = {id(weight) for weight in run.optimisers.parameters}
    assert changed == {name for name, weight in run.backbone.parameters() if id(weight) in trained}
    assert {before[name].dtype for name in changed} == {torch.float32}
    frozen = {weight.dtype for name, weight in before.items() if name not in changed}
    assert frozen == {torch.uint8, torch.bfloat16}


def test_four_bits_train_close_to_sixteen(tmp_path: Path) -> None:
    losses = {}
    for quantisation in ("nf4", "none"):
        recipe = prepared("qwen2.5-7b/cpt1", tmp_path)
        assert recipe.fqlora is not None
        recipe = replace(recipe, fqlora=replace(recipe.fqlora, quantisation=quantisation))
        ((_, losses[quantisation]),) = step(prepare(recipe, tmp_path / quantisation))["loss"].items()
    assert losses["nf4"] != losses["none"]
    assert losses["nf4"] == pytest.approx(losses["none"], rel=0.05)


def test_activation_checkpointing_gives_the_same_gradients(tmp_path: Path) -> None:
    found = []
    for checkpointing in (True, False):
        recipe = prepared("qwen2.5-7b/cpt1", tmp_path, activation_checkpointing=checkpointing, precision="float32")
        run = prepare(recipe, tmp_path / str(checkpointing))
        found.append((step(run), step(run)))
        assert run.backbone.model.is_gradient_checkpointing is checkpointing
    for one, other in zip(*found, strict=True):
        assert one["loss"] == other["loss"]
        assert one["norm"] == pytest.approx(other["norm"], rel=1e-5)


def test_validation_has_no_dropout(tmp_path: Path) -> None:
    recipe = prepared("qwen2.5-7b/sft", tmp_path)
    assert recipe.fqlora is not None
    run = prepare(replace(recipe, fqlora=replace(recipe.fqlora, dropout=0.9)), tmp_path / "run")
    for name, weight in run.backbone.parameters():
        if is_lora(name):
            torch.nn.init.normal_(weight)
    first, losses = validate(run), step(run)["loss"]
    assert validate(prepare(recipe, tmp_path / "other")) != first
    drop = [module for module in run.backbone.model.modules() if isinstance(module, torch.nn.Dropout)]
    assert drop
    assert all(module.training for module in drop)
    assert losses


def test_the_next_stage_goes_on_with_the_same_matrices(tmp_path: Path) -> None:
    recipe = prepared("qwen2.5-7b/cpt1", tmp_path)
    train(recipe, tmp_path / "first")
    following = replace(prepared("qwen2.5-7b/sft", tmp_path), parent=str(tmp_path / "first"))
    run = prepare(following, tmp_path / "second")
    stored = load_backbone(tmp_path / "first" / "model", dtype="bfloat16", merged=False)
    before = weights(run)
    for name, weight in stored.parameters():
        assert torch.equal(before[name], weight), name
    assert run.backbone.base_adapter == stored.base_adapter
    assert stored.base_adapter is not None
    assert stored.base_adapter.base == recipe.parent  # the folder that the first stage started from
    assert following.fqlora is not None
    other = replace(following, fqlora=replace(following.fqlora, rank=8))
    with pytest.raises(ConfigError, match="fqlora: rank is 8, and 4 in the parent 'model'; use its settings, or merge"):
        prepare(other, tmp_path / "third")


def test_resuming_equals_an_unbroken_run(tmp_path: Path) -> None:
    recipe = replace(prepared("qwen2.5-7b/cpt1", tmp_path), steps=4, validate_every=4, checkpoint_every=2)
    train(recipe, tmp_path / "whole")
    with pytest.raises(Stopped):
        train(recipe, tmp_path / "broken", report=_stop_after(3))
    train(recipe, tmp_path / "broken", resume=True)
    for name in ("adapter_model.safetensors", "full.safetensors", "heads.safetensors", "memfold.json"):
        files = [(tmp_path / run / "model" / name).read_bytes() for run in ("whole", "broken")]
        assert files[0] == files[1], name


class Stopped(Exception):
    pass


def _stop_after(number: int) -> Any:
    def report(metrics: dict[str, Any]) -> None:
        if metrics["step"] == number:
            raise Stopped

    return report


def test_adapters_alone(tmp_path: Path) -> None:
    base = small_model(tmp_path / "base", "qwen2.5-0.5b")
    backbone = load_backbone(base)
    fqlora = FQLoRA(0, rank=2, embeddings=False)
    wanted = targets(backbone.model, fqlora)
    assert len(wanted) == 2 * len(MATRICES)
    adapt(backbone, fqlora, str(base))
    assert all(is_lora(name) == weight.requires_grad for name, weight in backbone.model.named_parameters())
    save_backbone(backbone, tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "full.safetensors").exists()
