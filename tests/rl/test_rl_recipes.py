from __future__ import annotations

import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memfold.backbone.folder import load_backbone
from memfold.core.config import build
from memfold.core.errors import ConfigError
from memfold.rl.loop import train
from memfold.rl.recipe import JudgeSettings, RlRecipe
from memfold.training.recipe import read_recipe
from memfold.training.recipe_file import read_values

RECIPES = sorted(
    path for path in (Path(__file__).parents[2] / "recipes").rglob("*.toml") if read_values(path)["stage"] == "rl"
)
MADE = [path for path in RECIPES if "tiny" in path.parts]  # published sizes are tested in test_rl_proof.py
LONGEST = 96


def name(path: Path) -> str:
    return "/".join(path.parts[-3:])


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
        algorithm=recipe.algorithm | {"overlong_buffer": 4},
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


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_every_recipe_parses(path: Path) -> None:
    recipe = build(RlRecipe, read_values(path))
    assert build(RlRecipe, asdict(recipe)) == recipe


@pytest.mark.parametrize("path", MADE, ids=name)
def test_every_recipe_takes_two_steps(path: Path, parent: str, tmp_path: Path) -> None:
    recipe = shrunk(build(RlRecipe, read_values(path)), parent)
    heard: list[dict[str, Any]] = []
    backbone = train(recipe, tmp_path, report=heard.append)
    assert [line["step"] for line in heard] == [0, 1, 2]
    assert (backbone.encoder is None) == (recipe.memory == "end-to-end")
    origin = load_backbone(parent)
    assert torch.equal(backbone.compressor.heads["pooled"].weight, origin.heads["pooled"].weight) or not backbone.reads


@pytest.mark.parametrize(("size", "rollouts"), [("7b", 16), ("32b", 8)])
def test_the_papers_recipes_have_the_numbers_of_table_10(size: str, rollouts: int) -> None:
    recipe = build(RlRecipe, read_values(next(path for path in RECIPES if path.parts[-2] == f"qwen2.5-{size}")))
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
def test_the_papers_recipes_have_the_questions_and_the_layers_of_sft(size: str) -> None:
    path = next(path for path in RECIPES if path.parts[-2] == f"qwen2.5-{size}")
    recipe, sft = build(RlRecipe, read_values(path)), read_recipe(path.with_name("sft.toml"))
    assert sft.fqlora is not None
    assert recipe.fqlora == replace(sft.fqlora, dropout=0.0)
    assert recipe.parent == f"runs/pooled-qwen2.5-{size}-sft"
    for entry, taught in zip(recipe.mixture, sft.mixture, strict=True):
        assert asdict(entry).items() <= asdict(taught).items()


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
            "mixture[0].settings: unknown pooled setting 'max_gpa'; nearest: 'max_gap'; known: chat_template, ",
        ),
    ],
)
def test_invalid_recipes_are_refused(text: str, message: str) -> None:
    assert build(RlRecipe, tomllib.loads(GOOD)).rollouts == 8
    with pytest.raises(ConfigError) as raised:
        build(RlRecipe, tomllib.loads(text))
    assert str(raised.value).startswith(message)
