"""Recipes of reinforcement learning for published sizes, made small; in one process and two by benchmarks/proof.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from two_processes import launched

from memfold.backbone.adapters import is_lora
from memfold.backbone.folder import load_backbone
from memfold.core.config import build
from memfold.core.errors import ConfigError, DataError
from memfold.rl.loop import Run, prepare, step, train
from memfold.rl.proof import small
from memfold.rl.recipe import RlRecipe
from memfold.training.hardware import Hardware
from memfold.training.optimisers import is_frozen
from memfold.training.recipe_file import read_values

RECIPES = Path(__file__).parents[2] / "recipes" / "pooled"


def recipe(size: str, folder: Path, **changes: Any) -> RlRecipe:
    made = build(RlRecipe, read_values(RECIPES / size / "rl.toml"))
    return replace(small(made, folder), **changes)


def weights(run: Run) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in run.backbone.parameters()}


@pytest.mark.parametrize("size", ["qwen2.5-7b", "qwen2.5-32b"])
def test_two_steps_change_what_trains_and_nothing_else(size: str, tmp_path: Path) -> None:
    made = recipe(size, tmp_path)
    run = prepare(made, tmp_path / "run")
    before = weights(run)
    lines = [step(run) for _ in range(made.steps)]
    assert all(line["norm"] > 0 and 0 < line["figures"]["reward"] < 1 for line in lines)
    assert all(line["figures"]["logprob_gap"] < made.max_logprob_gap and not line["failures"] for line in lines)
    changed = {name for name, weight in weights(run).items() if not torch.equal(weight, before[name])}
    whole = {name for name in before if name.startswith(("model.layers.0.", "model.embed_tokens.", "lm_head."))}
    assert changed == whole | {name for name in before if is_lora(name)}
    kinds = [type(module).__name__ for module in run.backbone.model.modules()]
    assert "Linear4bit" in kinds
    assert (run.backbone.chat_template, run.backbone.trained["pooled"]["wrapper"]) == ("chatml", "slot")


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
    assert read.base_adapter is None
    assert read.readable == whole.readable == (load_backbone(str(made.parent)).fingerprint(),)


def test_dropout_and_missing_data_are_refused(tmp_path: Path) -> None:
    made = build(RlRecipe, read_values(RECIPES / "qwen2.5-7b" / "rl.toml"))
    assert made.fqlora is not None
    with pytest.raises(ConfigError, match=r"fqlora\.dropout = 0\.1 is not possible; allowed: 0: replies are scored"):
        replace(made, fqlora=replace(made.fqlora, dropout=0.1))
    with pytest.raises(
        ConfigError, match=r"hardware\.sharded = true with memory = 'frozen' and engine = 'vllm' is not"
    ):
        replace(made, engine="vllm")
    made = replace(made, hardware=Hardware())
    with pytest.raises(ConfigError, match="engine = 'vllm' with fqlora is not possible: it loads plain weights"):
        replace(made, engine="vllm")
    with pytest.raises(DataError, match=r"no data at data/hotpotqa/hotpot_train_v1\.1\.json, data/triviaqa/"):
        prepare(made, tmp_path / "run")


# A step, a checkpoint, another step; then that one again from the checkpoint.
LAUNCHED = """
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
from memfold.cli.process import end_process
from memfold.core.config import build
from memfold.rl import loop
from memfold.rl.proof import small
from memfold.rl.recipe import RlRecipe
from memfold.training import sharding
from memfold.training.recipe_file import read_values

folder = Path(sys.argv[2])
made = small(build(RlRecipe, read_values(Path(sys.argv[1]))), folder)
made = replace(made, questions=3, tokens=64, precision="float32", checkpoint_every=1)
run = loop.prepare(made, folder / "both")
spread = sum(type(module).__name__.startswith("FSDP") for module in run.backbone.model.modules())
lines = [loop.step(run)]
loop._checkpoint(run)
lines += [loop.step(run)]
again = loop.prepare(made, folder / "both", resume=True)
resumed = loop.step(again)
sharding.save_model(run.backbone, folder / "both" / "model", run.processes)
if run.processes.first:
    found = {"lines": lines, "spread": spread, "resumed": resumed}
    (folder / "both" / "found.json").write_text(json.dumps(found))
run.processes.close()
end_process(0)
"""


def test_two_processes_with_sharded_layers_equal_one(tmp_path: Path) -> None:
    """One process has two questions, the other one, and so none for the second update."""
    made = recipe("qwen2.5-7b", tmp_path, questions=3, tokens=64, precision="float32", checkpoint_every=1)
    assert made.hardware.sharded
    assert made.activation_checkpointing
    lines: list[dict[str, Any]] = []
    train(made, tmp_path / "alone", report=lines.append)
    (tmp_path / "script.py").write_text(LAUNCHED)
    launched(["script.py", str(RECIPES / "qwen2.5-7b/rl.toml"), str(tmp_path)], tmp_path)
    both = json.loads((tmp_path / "both" / "found.json").read_text())
    assert both["spread"] == 3  # a layer, embeddings, head
    for ours, theirs in zip(both["lines"], lines[1:], strict=True):
        assert ours["figures"] == pytest.approx(theirs["figures"], abs=1e-4)
        assert ours["norm"] == pytest.approx(theirs["norm"], rel=1e-3)
        assert ours["norm"] > 0
    for key in ("figures", "norm", "tokens"):
        assert both["resumed"][key] == both["lines"][1][key]
    for name in ("adapter_model.safetensors", "full.safetensors"):
        weights = [load_file(tmp_path / run / "model" / name) for run in ("both", "alone")]
        for key, weight in weights[0].items():
            assert (weight - weights[1][key]).abs().max() < 1e-6, key


def test_adapters_train_end_to_end_in_one_process(tmp_path: Path) -> None:
    made = recipe("qwen2.5-7b", tmp_path, memory="end-to-end", hardware=Hardware(), freeze=())
    run = prepare(made, tmp_path / "run")
    before = weights(run)
    assert step(run)["norm"] > 0
    changed = {name for name, weight in weights(run).items() if not torch.equal(weight, before[name])}
    assert {name for name in before if is_lora(name)} <= changed
    assert any(name.startswith("heads.") for name in changed)  # gradient reaches it only through the memory
    assert run.backbone.encoder is None


@pytest.mark.parametrize("name", ["recurrent/qwen2.5-7b/rl", "recurrent/qwen2.5-7b/rl-dapo", "kvbank/qwen2.5-3b/rl"])
def test_systems_of_several_calls_take_two_steps(name: str, tmp_path: Path) -> None:
    made = small(build(RlRecipe, read_values(RECIPES.parent / f"{name}.toml")), tmp_path)
    made = replace(made, precision="float32", settings=made.settings | {"note": 12})
    run = prepare(made, tmp_path / "run")
    before = weights(run)
    lines = [step(run) for _ in range(2)]
    assert all(line["norm"] > 0 and line["figures"]["logprob_gap"] < 1e-5 for line in lines)
    assert all(len(trace.steps) > 1 for group in run.groups for trace in group.traces)
    changed = {key for key, weight in weights(run).items() if not torch.equal(weight, before[key])}
    frozen = {key for key in before if is_frozen(key, made.freeze)}
    assert changed <= before.keys() - frozen
    roles = {role for role in run.backbone.roles if any(f".{role}." in key for key in changed)}
    assert roles == ({"compressor", "reasoner"} if "kvbank" in name else set())
    assert run.backbone.encoder is None
