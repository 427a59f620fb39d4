"""Opening a run, for supervised training and reinforcement learning alike: what is checked, loaded and written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memfold.backbone.adapters import add_role, is_lora
from memfold.backbone.folder import load_backbone
from memfold.backbone.model import Backbone
from memfold.core.errors import CheckpointError, ConfigError, DataError
from memfold.rl import loop as rl_loop
from memfold.rl.recipe import RlRecipe
from memfold.training import checkpoint, loop
from memfold.training.checkpoint import Progress
from memfold.training.fqlora import FQLoRA
from memfold.training.hardware import Hardware
from memfold.training.recipe import Entry, Group, Recipe, StageRecipe, SupervisedEntry
from memfold.training.run import open_run, trained_parameters

MIXTURES: dict[str, tuple[Entry, ...]] = {
    "sft": (SupervisedEntry("almanac", 1, (48,), system="full", level=0),),
    "rl": (Entry("almanac", 1, (48,), system="full", level=0),),
}


@pytest.fixture(params=sorted(MIXTURES))
def stage(request: pytest.FixtureRequest, parent: str) -> StageRecipe:
    """A recipe of either loop, for a system that adds nothing to a model."""
    kind: type[Any] = RlRecipe if request.param == "rl" else Recipe
    recipe: StageRecipe = kind(
        stage=request.param, steps=3, parent=parent, mixture=MIXTURES[request.param], tokens=64, precision="float32"
    )
    return recipe


def prepared(stage: StageRecipe, folder: Path, resume: bool = False) -> Any:
    """The run that the loop of a recipe has opened."""
    if isinstance(stage, RlRecipe):
        return rl_loop.prepare(stage, folder, resume)
    assert isinstance(stage, Recipe)
    return loop.prepare(stage, folder, resume)


def saved(stage: StageRecipe, folder: Path) -> dict[str, torch.Tensor]:
    """A run folder with two steps of metrics, and a checkpoint of the first with these momenta."""
    opening = open_run(stage, folder, resume=False)
    opening.create_folder()
    backbone = opening.load(str(stage.parent), opening.device)
    named = trained_parameters(backbone)
    optimisers = opening.optimisers(named)
    for _, parameter in named:
        parameter.grad = torch.ones_like(parameter)
    optimisers.step(0)
    checkpoint.save(folder, backbone, Progress(step=1, tokens=64), optimisers.state_dict(), {"more": 7})
    for number in (1, 2):
        checkpoint.write_metrics(folder, {"step": number})
    return {name: optimisers.parts[0][1].state[parameter]["exp_avg"].clone() for name, parameter in named}


def test_a_new_run_writes_nothing_before_its_folder_is_created(stage: StageRecipe, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    opening = open_run(stage, folder, resume=False)
    assert not folder.exists()
    assert (opening.resumed, opening.start.model, opening.start.progress) == (False, None, Progress())
    assert (opening.recipe, opening.folder) == (stage, folder)
    opening.create_folder()
    assert [path.name for path in folder.iterdir()] == ["recipe.json"]
    resolved = json.loads((folder / "recipe.json").read_text())
    assert resolved == opening.resolved
    assert resolved["mixture"][0]["settings"] == {}
    assert open_run(stage, folder, resume=False).start.model is None  # nothing was trained, so it may begin again


def test_a_resumed_run_goes_on_from_its_newest_checkpoint(stage: StageRecipe, tmp_path: Path) -> None:
    momenta = saved(stage, tmp_path)
    opening = open_run(stage, tmp_path, resume=True)
    assert opening.resumed
    assert opening.start.model == tmp_path / "step-000001" / "model"
    assert (opening.start.progress, opening.start.extra) == (Progress(step=1, tokens=64), {"more": 7})
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    opening.create_folder()
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [{"step": 1}]
    named = trained_parameters(opening.load(opening.start.model, opening.device))
    optimisers = opening.optimisers(named)
    assert momenta.keys() == {name for name, _ in named}
    for name, parameter in named:
        assert torch.equal(optimisers.parts[0][1].state[parameter]["exp_avg"], momenta[name]), name


def test_what_stands_in_the_way_is_refused_and_changes_nothing(stage: StageRecipe, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing to resume in .*: it has no checkpoint; start without --resume"):
        open_run(stage, tmp_path, resume=True)
    saved(stage, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="already holds a run; add --resume to continue, or name another --out"):
        open_run(stage, tmp_path, resume=False)
    with pytest.raises(CheckpointError, match="was started with seed = 0, not 7"):
        open_run(replace(stage, seed=7), tmp_path, resume=True)
    entry = replace(stage.mixture[0], settings={"chunk": 32})
    changes: dict[str, Any] = {"settings": {"chunk": 32}, "mixture": (entry,)}
    changes |= {"algorithm": {"warmup": 3}} if isinstance(stage, RlRecipe) else {}
    for key, value in changes.items():
        with pytest.raises(CheckpointError, match=f"was started with {key} = "):
            open_run(replace(stage, **{key: value}), tmp_path, resume=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_files_that_are_missing_are_all_named(stage: StageRecipe, tmp_path: Path) -> None:
    files = (str(tmp_path / "one.json"), str(tmp_path / "two.json"))
    entry = replace(stage.mixture[0], task="questions", dataset="hotpotqa", files=files)
    with pytest.raises(DataError, match=r"no data at .*one\.json, .*two\.json; docs/data\.md says"):
        open_run(replace(stage, mixture=(entry,)), tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("refused", ["freeze", "group", "roles"])
def test_a_refused_run_leaves_no_folder(
    stage: StageRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """Neither what `open_run` refuses, nor what follows it."""
    changes: dict[str, tuple[dict[str, Any], str]] = {
        "freeze": ({"freeze": ("heads.other.*",)}, r"freeze 'heads\.other\.\*' matches no parameter"),
        "group": ({"groups": (Group(("*proj.weight",)),)}, "no optimiser group matches"),
        "roles": ({"fqlora": FQLoRA(1, dropout=0.0)}, "fqlora is not possible with the adapters gate"),
    }
    changed, message = changes[refused]
    if refused == "roles":
        prepare = stage.mixture[0].kind.prepare

        def with_role(system: Any, backbone: Backbone) -> None:
            prepare(system, backbone)
            add_role(backbone, "gate", rank=2, alpha=4.0, targets=("q_proj",))

        monkeypatch.setattr(stage.mixture[0].kind, "prepare", with_role)
    with pytest.raises(ConfigError, match=message):
        prepared(replace(stage, **changed), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_sharded_model_is_loaded_on_the_cpu(stage: StageRecipe, tmp_path: Path) -> None:
    opening = open_run(stage, tmp_path, resume=False)
    assert opening.device == opening.processes.device
    elsewhere = replace(opening, recipe=replace(stage, hardware=Hardware(devices=2, sharded=True)))
    elsewhere.processes.device = "cuda:1"
    assert elsewhere.device == "cpu"
    assert replace(elsewhere, recipe=stage).device == "cuda:1"


def test_frozen_weights_have_the_precision_of_the_recipe(stage: StageRecipe, tmp_path: Path) -> None:
    narrow = replace(stage, precision="bfloat16")
    whole = open_run(narrow, tmp_path, resume=False).load(str(stage.parent), "cpu")
    frozen = open_run(replace(narrow, fqlora=FQLoRA(1, dropout=0.0)), tmp_path, resume=False)
    assert (whole.dtype, frozen.load(str(stage.parent), "cpu").dtype) == (torch.float32, torch.bfloat16)


def test_adapters_are_the_same_in_every_process_and_stay_unmerged(stage: StageRecipe, tmp_path: Path) -> None:
    fqlora = FQLoRA(1, rank=2, dropout=0.0)
    opening = open_run(replace(stage, fqlora=fqlora), tmp_path, resume=False)
    matrices = []
    for seed in (1, 2):  # processes differ in what they have drawn before
        backbone = opening.load(str(stage.parent), "cpu")
        torch.manual_seed(seed)
        opening.adapt(backbone, fqlora, str(stage.parent))
        assert backbone.base_adapter is not None
        assert backbone.base_adapter.base == stage.parent
        matrices.append({name: weight for name, weight in trained_parameters(backbone) if is_lora(name)})
    assert matrices[0].keys() == matrices[1].keys() != set()
    assert all(torch.equal(weight, matrices[1][name]) for name, weight in matrices[0].items())
    assert any(weight.any() for weight in matrices[0].values())
    checkpoint.save(tmp_path, backbone, Progress(step=1), [], {})
    again = opening.load(tmp_path / "step-000001" / "model", "cpu")
    assert again.base_adapter == backbone.base_adapter
    assert load_backbone(tmp_path / "step-000001" / "model").base_adapter is None


def test_the_trained_parameters_are_those_that_a_system_leaves(new_backbone: Callable[..., Backbone]) -> None:
    backbone = new_backbone()
    assert [name for name, _ in trained_parameters(backbone)] == [name for name, _ in backbone.parameters()]
    backbone.model.requires_grad_(False)
    assert [name for name, _ in trained_parameters(backbone)] == ["heads.pooled.weight"]
