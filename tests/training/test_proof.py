"""Recipes for published sizes, made small: some of them here in one process, one in two; all by benchmarks/proof.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from two_processes import launched

from memfold.core.errors import CheckpointError, ConfigError, DataError
from memfold.systems.pooled.learning import START
from memfold.training import run as run_module
from memfold.training.loop import prepare, step, train, validate
from memfold.training.proof import small
from memfold.training.recipe import Recipe, read_recipe

RECIPES = Path(__file__).parents[2] / "recipes" / "pooled"


def recipe(name: str, folder: Path, **changes: Any) -> Recipe:
    return replace(small(read_recipe(RECIPES / f"{name}.toml"), folder, 1), **changes)


@pytest.mark.parametrize("name", ["qwen2.5-0.5b/cpt1", "qwen2.5-7b/cpt2", "qwen2.5-32b/sft"])
def test_a_stage_runs_two_steps(name: str, tmp_path: Path) -> None:
    made = recipe(name, tmp_path)
    run = prepare(made, tmp_path / "run")
    seen = [step(run) for _ in range(2)]
    assert all(value > 0 for metrics in seen for value in metrics["loss"].values())
    labels = {f"{number}:{entry.label}" for number, entry in enumerate(made.mixture)}
    assert {entry.rpartition("/")[0] for entry in validate(run)} == labels
    kinds = [type(module).__name__ for module in run.backbone.model.modules()]
    assert ("Linear4bit" in kinds) == ("0.5b" not in name)
    assert run.backbone.chat_template == ("chatml" if made.stage == "sft" else "flat")
    assert run.backbone.trained["pooled"]["wrapper"] == "slot"
    assert START in run.backbone.tokenizer.get_vocab()


@pytest.mark.parametrize(
    "name", ["pooled/cpt1", "pooled/cpt2", "pooled/sft", "kvbank/cpt1", "kvbank/sft", "recurrent/sft"]
)
def test_the_recipes_of_the_packaged_model_train_adapters_alone(name: str, tmp_path: Path) -> None:
    """On a small model and synthetic files in place of its own."""
    system, stage = name.split("/")
    path = RECIPES.parent / system / "smollm2" / f"{stage}.toml"
    recipe = replace(read_recipe(path), architecture="qwen2.5-0.5b")
    run = prepare(replace(small(recipe, tmp_path, 1), fqlora=recipe.fqlora), tmp_path / "run")
    before = {name: weight.clone() for name, weight in run.backbone.parameters()}
    assert all(value > 0 for value in step(run)["loss"].values())
    changed = {name for name, weight in run.backbone.parameters() if not torch.equal(weight, before[name])}
    assert changed
    assert all("lora" in name or name.startswith("heads.") for name in changed)


def test_files_without_rows_to_validate_on_are_refused_before_training(tmp_path: Path) -> None:
    made = recipe("qwen2.5-0.5b/cpt1", tmp_path)
    for file in made.mixture[0].files:
        (part,) = Path(file).iterdir()
        part.write_text('{"text": "A text that is not held out."}\n')
    with pytest.raises(DataError, match="too few rows to validate on"):
        prepare(made, tmp_path / "run")
    assert not (tmp_path / "run" / "recipe.json").exists()


# A step, a checkpoint, two more; then the two again from the checkpoint.
LAUNCHED = """
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
from memfold.cli.process import end_process
from memfold.training import loop, sharding
from memfold.training.proof import small
from memfold.training.recipe import read_recipe

folder = Path(sys.argv[2])
made = replace(small(read_recipe(Path(sys.argv[1])), folder, 2), steps=3)
run = loop.prepare(made, folder / "both")
steps = [loop.step(run)]
loop._checkpoint(run)
steps += [loop.step(run), loop.step(run)]
held_out = loop.validate(run)
again = loop.prepare(made, folder / "both", resume=True)
resumed = [loop.step(again), loop.step(again)]
sharding.save_model(run.backbone, folder / "both" / "model", run.processes)
if run.processes.first:
    found = {"steps": steps, "resumed": resumed, "held out": held_out}
    (folder / "both" / "found.json").write_text(json.dumps(found))
run.processes.close()
end_process(0)
"""


def test_two_processes_with_sharded_layers_equal_one(tmp_path: Path) -> None:
    made = recipe("qwen2.5-7b/cpt1", tmp_path, steps=3, checkpoint_every=1, validate_every=3)
    assert made.hardware.sharded
    train(made, tmp_path / "alone")
    (tmp_path / "script.py").write_text(LAUNCHED)
    launched(["script.py", str(RECIPES / "qwen2.5-7b/cpt1.toml"), str(tmp_path)], tmp_path)
    both = json.loads((tmp_path / "both" / "found.json").read_text())
    alone = [json.loads(line) for line in (tmp_path / "alone" / "metrics.jsonl").read_text().splitlines()]
    for ours, theirs in zip(both["steps"], alone, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
        assert ours["norm"] == pytest.approx(theirs["norm"], rel=1e-4)
    assert both["resumed"] == both["steps"][1:]
    for entry, values in alone[-1]["validation"].items():
        assert both["held out"][entry] == pytest.approx(values, abs=1e-4)
    for name in ("adapter_model.safetensors", "full.safetensors", "heads.safetensors"):
        weights = [load_file(tmp_path / run / "model" / name) for run in ("both", "alone")]
        assert weights[0].keys() == weights[1].keys()
        for key, weight in weights[0].items():
            assert (weight - weights[1][key]).abs().max() < 1e-6, key


def test_data_that_is_not_there_is_named_before_anything_is_loaded(tmp_path: Path) -> None:
    made = read_recipe(RECIPES / "qwen2.5-7b" / "sft.toml")
    with pytest.raises(DataError) as raised:
        prepare(made, tmp_path / "run")
    assert str(raised.value).startswith("no data at data/hotpotqa/hotpot_train_v1.1.json, data/triviaqa/")
    assert "docs/data.md" in str(raised.value)


def test_a_parent_of_another_size_is_refused(tmp_path: Path) -> None:
    made = recipe("qwen2.5-7b/cpt1", tmp_path, architecture="qwen2.5-7b")
    with pytest.raises(
        ConfigError, match=r"the recipe is for qwen2\.5-7b \(28 layers of 3584\), its parent .* has 2 of 112"
    ):
        prepare(made, tmp_path / "run")


def test_sharded_batches_must_fit_one_pass(tmp_path: Path) -> None:
    made = recipe("qwen2.5-7b/cpt1", tmp_path, tokens=8000)
    with pytest.raises(ConfigError, match=r"tokens = 8000 and documents of 256 exceed one pass"):
        prepare(replace(made, mixture=tuple(replace(s, sizes=(256,)) for s in made.mixture)), tmp_path / "run")


@pytest.mark.parametrize(
    ("parent", "architecture", "wanted"),
    [
        ("Qwen/Qwen2.5-7B", "qwen2.5-7b", "Qwen/Qwen2.5-7B"),
        ("runs/pooled-qwen2.5-7b-cpt1", "qwen2.5-7b", None),
        ("Qwen/Qwen2.5-7B", None, None),
    ],
)
def test_a_hugging_face_id_is_a_parent_where_its_architecture_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parent: str, architecture: str | None, wanted: str | None
) -> None:
    made = recipe("qwen2.5-7b/cpt1", tmp_path, parent=parent, architecture=architecture)
    asked: list[str] = []

    def load(where: str, *given: Any, **named: Any) -> Any:
        asked.append(where)
        raise CheckpointError("there is no network")

    monkeypatch.setattr(run_module, "load_backbone", load)
    with pytest.raises(
        CheckpointError, match="there is no network" if wanted else f"no model in .*{parent}; train its"
    ):
        prepare(made, tmp_path / "run")
    assert asked == ([wanted] if wanted else [])
