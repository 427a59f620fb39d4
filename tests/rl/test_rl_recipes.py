from __future__ import annotations

import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memfold.backbone.adapters import is_lora
from memfold.backbone.folder import load_backbone, save_backbone
from memfold.core.config import build
from memfold.core.errors import ConfigError
from memfold.rl.loop import train
from memfold.rl.plan import plan
from memfold.rl.recipe import JudgeSettings, RlRecipe
from memfold.training.optimisers import is_frozen
from memfold.training.plan import check_fits
from memfold.training.recipe import read_recipe
from memfold.training.recipe_file import read_values

RECIPE_FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(path for path in RECIPE_FOLDER.rglob("*.toml") if read_values(path)["stage"] == "rl")
MADE = [path for path in RECIPES if "tiny" in path.parts]  # published sizes are tested in test_rl_proof.py
LONGEST = 96


def name(path: Path) -> str:
    return "/".join(path.parts[-3:])


def supervised(recipe: RlRecipe, parent: str, folder: Path) -> str:
    """A model like that of the recipe's supervised stage: with the adapters and heads of its systems."""
    backbone = load_backbone(parent)
    torch.manual_seed(0)
    for entry in recipe.mixture:
        system = recipe.system(entry)
        system.prepare(backbone)
        backbone.trained.setdefault(entry.system, system.record({}))
    for _, weight in filter(lambda named: is_lora(named[0]), backbone.model.named_parameters()):
        torch.nn.init.normal_(weight, std=0.1)
    save_backbone(backbone, folder)
    return str(folder)


def shrunk(recipe: RlRecipe, parent: str) -> RlRecipe:
    """The same stage for two steps of two questions each, on a model of two layers, with a rule as reward."""
    entries = tuple(
        replace(entry, sizes=(min(LONGEST, *entry.sizes),), level=min(entry.level, 1), kinds=())
        for entry in recipe.mixture
    )
    return replace(
        recipe,
        parent=parent,
        mixture=entries,
        steps=2,
        questions=2,
        rollouts=2,
        reply_tokens=12,
        reward="f1",
        judge=JudgeSettings(),
        updates=min(recipe.updates, 2),
        algorithm=recipe.algorithm | ({"overlong_buffer": 4} if recipe.options.overlong_buffer else {}),
        validate_every=2,
        validation_questions=1,
        checkpoint_every=2,
        max_logprob_gap=0.5,
    )


def test_the_recipes_are_shipped() -> None:
    found = {"/".join(path.parts[-2:]) for path in RECIPES}
    assert found >= {
        "tiny/rl.toml",
        "tiny/rl-64x.toml",
        "tiny/rl-end-to-end.toml",
        "qwen2.5-7b/rl.toml",
        "qwen2.5-32b/rl.toml",
    }
    assert {name(path) for path in RECIPES} >= {
        "recurrent/tiny/rl.toml",
        "recurrent/qwen2.5-7b/rl.toml",
        "recurrent/qwen2.5-7b/rl-dapo.toml",
        "recurrent/qwen2.5-14b/rl.toml",
        "kvbank/tiny/rl.toml",
        "kvbank/tiny/rl-frozen.toml",
        "kvbank/tiny/gate.toml",
        "kvbank/qwen2.5-3b/rl.toml",
        "kvbank/qwen2.5-7b/rl.toml",
    }


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_every_recipe_parses(path: Path) -> None:
    recipe = build(RlRecipe, read_values(path))
    assert build(RlRecipe, asdict(recipe)) == recipe


@pytest.mark.parametrize("path", MADE, ids=name)
def test_every_recipe_takes_two_steps(path: Path, parent: str, tmp_path: Path) -> None:
    made = build(RlRecipe, read_values(path))
    recipe = shrunk(made, supervised(made, parent, tmp_path / "parent"))
    heard: list[dict[str, Any]] = []
    backbone = train(recipe, tmp_path / "run", report=heard.append)
    assert [line["step"] for line in heard] == [0, 1, 2]
    text = {entry.system for entry in recipe.mixture} == {"recurrent"}
    assert (backbone.encoder is None) == (recipe.memory == "end-to-end" or text)
    origin = dict(load_backbone(str(recipe.parent)).parameters())
    if backbone.reads:
        assert all(torch.equal(weight, origin[key]) for key, weight in backbone.compressor.parameters())
    kept = {key for key, weight in backbone.parameters() if torch.equal(weight, origin[key])}
    assert {key for key in origin if is_frozen(key, recipe.freeze)} <= kept


@pytest.mark.parametrize("size", ["7b", "14b"])
def test_the_recipes_of_memagent_have_its_numbers(size: str) -> None:
    recipe = build(RlRecipe, read_values(RECIPE_FOLDER / f"recurrent/qwen2.5-{size}/rl.toml"))
    options = recipe.options
    assert (recipe.questions, recipe.rollouts, recipe.updates) == ({"7b": 128, "14b": 256}[size], 16, 16)
    assert (recipe.settings, recipe.reply_tokens) == ({"chunk": 5000, "note": 1024}, 1024)
    assert (options.advantage, options.clip, options.clip_low, options.clip_dual) == ("mean", "dual", 0.2, 3.0)
    assert (options.kl, options.beta, options.credit, options.dynamic) == ("loss", 0.001, "trajectory", False)
    assert [(group.lr, group.weight_decay) for group in recipe.groups] == [(1e-6, 0.01)]
    factors = [recipe.schedule.factor(step, recipe.steps) for step in range(recipe.steps)]
    assert factors[19] < 1.0 == factors[20] == factors[-1]


def test_the_dapo_reading_differs_in_the_algorithm_alone() -> None:
    code, named = (
        build(RlRecipe, read_values(RECIPE_FOLDER / f"recurrent/qwen2.5-7b/{name}.toml")) for name in ("rl", "rl-dapo")
    )
    assert replace(named, preset=code.preset, algorithm=code.algorithm) == code
    options = named.options
    assert (options.advantage, options.clip_high, options.kl, options.dynamic) == ("mean", 0.28, "none", True)
    assert options.overlong_buffer > 0


@pytest.mark.parametrize("size", ["3b", "7b"])
def test_the_recipes_of_lycheememory_have_its_numbers(size: str) -> None:
    folder = RECIPE_FOLDER / f"kvbank/qwen2.5-{size}"
    recipe = build(RlRecipe, read_values(folder / "rl.toml"))
    assert (recipe.questions, recipe.questions // recipe.updates, recipe.rollouts) == (128, 16, 12)
    assert recipe.steps * recipe.updates == pytest.approx(150, abs=4)
    assert (recipe.memory, recipe.options.beta, recipe.groups[0].lr) == ("end-to-end", 1e-3, 3e-5)
    first, joint = (read_recipe(folder / f"{name}.toml") for name in ("cpt1", "sft"))
    gate = build(RlRecipe, read_values(folder / "gate.toml"))
    assert (first.steps, first.micro_batches * first.hardware.devices, first.groups[0].lr) == (5000, 8, 1e-4)
    assert first.settings["ratios"] == [2, 4, 8, 16]
    assert (gate.objective, gate.memory, gate.groups[0].lr) == ("heads", "frozen", 5e-5)
    chain = [made.parent for made in (joint, recipe, gate)]
    assert chain == [f"runs/kvbank-qwen2.5-{size}-{name}" for name in ("cpt1", "sft", "rl")]
    for made in (first, joint, recipe, gate):
        assert {name: made.settings[name] for name in ("chunk", "compressor_rank", "gate_rank")} == {
            "chunk": 4096,
            "compressor_rank": 64,
            "gate_rank": 16,
        }


@pytest.mark.parametrize(
    "path", [path for path in RECIPES if "pooled" not in path.parts and "qwen2.5" in path.parts[-2]], ids=name
)
def test_the_recipes_of_several_calls_fit_the_devices_that_they_name(path: Path) -> None:
    made = build(RlRecipe, read_values(path))
    check_fits(made, plan(made), made.hardware.memory)


@pytest.mark.parametrize(("size", "rollouts"), [("7b", 16), ("32b", 8)])
def test_the_papers_recipes_have_the_numbers_of_table_10(size: str, rollouts: int) -> None:
    recipe = build(RlRecipe, read_values(RECIPE_FOLDER / f"pooled/qwen2.5-{size}/rl.toml"))
    options = recipe.options
    assert {group.lr for group in recipe.groups} == {1e-6}
    assert (recipe.questions, recipe.questions // recipe.updates) == (128, 64)
    assert (options.advantage, options.mean, options.clip_low, options.clip_high) == ("grpo", "token", 0.2, 0.28)
    assert (options.kl, options.entropy, options.dynamic, options.warmup) == ("none", 0, True, 25)
    assert (options.overlong_buffer, options.overlong_factor) == (100, 0.5)
    assert (recipe.rollouts, recipe.reply_tokens) == (rollouts, 600)
    factors = [recipe.schedule.factor(step, recipe.steps) for step in range(recipe.steps)]
    assert factors[10:] == [1.0] * (recipe.steps - 10)
    assert factors[:10] == sorted(factors[:10])
    assert factors[0] < 0.1


@pytest.mark.parametrize("size", ["7b", "32b"])
def test_the_papers_recipes_have_the_questions_of_table_2_and_the_layers_of_sft(size: str) -> None:
    path = RECIPE_FOLDER / f"pooled/qwen2.5-{size}/rl.toml"
    recipe, sft = build(RlRecipe, read_values(path)), read_recipe(path.with_name("sft.toml"))
    assert sft.fqlora is not None
    assert recipe.fqlora == replace(sft.fqlora, dropout=0.0)
    assert recipe.parent == f"runs/pooled-qwen2.5-{size}-sft"
    assert [entry.dataset for entry in recipe.mixture] == ["hotpotqa", "triviaqa", "natural-questions"]
    assert sum(entry.weight for entry in recipe.mixture) == 60  # thousands of samples
    taught = {entry.dataset: entry for entry in sft.mixture}
    for entry in recipe.mixture:
        assert {**asdict(entry), "weight": 36}.items() <= asdict(taught[entry.dataset]).items()


GOOD = 'stage = "rl"\nsteps = 3\nparent = "runs/x"\n[[mixture]]\ntask = "almanac"\nweight = 1\nsizes = [64]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("steps", "rollouts = 1\nsteps"), "rollouts = 1 is not possible; allowed: 2 or more"),
        (GOOD.replace("steps", "rolouts = 4\nsteps"), "unknown key 'rolouts'; nearest: 'rollouts'"),
        (
            GOOD.replace("steps", 'memory = "thawed"\nsteps'),
            "unknown memory 'thawed'; known: end-to-end, frozen",
        ),
        (GOOD.replace("steps", 'preset = "ppo"\nsteps'), "unknown preset 'ppo'"),
        (GOOD.replace("steps", "updates = 99\nsteps"), "updates = 99 is not possible; allowed: 1 to the questions"),
        (GOOD.replace("steps", 'reward = "judge"\nsteps'), "reward 'judge' needs judge.model, an address"),
        (GOOD + '[judge]\nmodel = "http://h/v1#m"\n', "reward 'judge' needs judge.model, an address"),
        (GOOD.replace("steps", "reply_tokens = 50\nsteps"), "algorithm.overlong_buffer = 100 is not possible"),
        (GOOD.replace('parent = "runs/x"\n', ""), "a recipe of reinforcement learning names a parent"),
        (GOOD.split("[[")[0], "a recipe of reinforcement learning has a mixture"),
        (GOOD + "recall = 0.5\n", "unknown key 'mixture[0].recall'"),
        (
            GOOD + "settings = { max_gpa = 9 }\n",
            "mixture[0].settings: unknown pooled setting 'max_gpa'; nearest: 'max_gap'; known: adapters, ",
        ),
    ],
)
def test_invalid_recipes_are_refused(text: str, message: str) -> None:
    assert build(RlRecipe, tomllib.loads(GOOD)).rollouts == 8
    with pytest.raises(ConfigError) as raised:
        build(RlRecipe, tomllib.loads(text))
    assert str(raised.value).startswith(message)
