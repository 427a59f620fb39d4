from __future__ import annotations

import tomllib
from dataclasses import asdict, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch

from memfold.backbone.folder import load_backbone
from memfold.core.config import build
from memfold.core.errors import ConfigError
from memfold.training.batches import mixture
from memfold.training.loop import train
from memfold.training.recipe import Group, ModelSize, Recipe, SupervisedEntry, read_recipe
from memfold.training.recipe_file import read_values

RECIPES = sorted(
    path for path in (Path(__file__).parents[2] / "recipes").rglob("*.toml") if read_values(path)["stage"] != "rl"
)
MADE = [path for path in RECIPES if "tiny" in path.parts]  # published sizes are tested in test_proof.py
SMALL = ModelSize(vocabulary=512, hidden=32, layers=2, heads=4, feedforward=64)
LONGEST = 96


def shrunk(recipe: Recipe, parent: str) -> Recipe:
    """The same stage for two steps of one document each, on a tiny model.  Levels fall with the sizes of documents, and
    with them the kinds of question.
    """
    entries = tuple(
        replace(
            entry,
            sizes=(min(LONGEST, *entry.sizes),),
            samples=1 if entry.task == "spread" else min(entry.samples, 3),
            level=min(entry.level, 1),
            kinds=(),
        )
        for entry in mixture(recipe)
    )
    start: dict[str, Any] = {"model": SMALL} if recipe.model is not None else {"parent": parent}
    start["encoder"] = parent if recipe.encoder is not None else None
    return replace(
        recipe,
        **start,
        mixture=entries,
        preset=None,
        steps=2,
        tokens=1,
        compile=False,
        validate_every=2,
        validation_batches=1,
        checkpoint_every=2,
    )


def test_recipes_are_shipped() -> None:
    assert {path.stem for path in RECIPES} >= {"base", "cpt1", "cpt2", "sft"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: "/".join(path.parts[-3:]))
def test_every_recipe_parses(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.stage in path.stem or path.parent.name == "ablations"
    assert recipe.steps > 0
    assert build(Recipe, asdict(recipe)) == recipe


def test_every_row_of_the_ablations_changes_one_thing() -> None:
    rows = {path.stem: read_recipe(path) for path in RECIPES if path.parent.name == "ablations"}
    baseline = rows.pop("baseline")
    settings = {"window", "mask", "pooling", "projection", "wrapper", "positions", "ratios", "encoder", "bridges"}
    assert {name.partition("-")[0] for name in rows} == settings
    for name, recipe in rows.items():
        same = replace(recipe, settings=baseline.settings, mixture=baseline.mixture, encoder=None)
        assert same == baseline
        setting = name.partition("-")[0]
        changed = {key for key, value in recipe.settings.items() if baseline.settings.get(key) != value}
        changed |= {
            field
            for entry, plain in zip(recipe.mixture, baseline.mixture, strict=True)
            for field in asdict(entry)
            if asdict(entry)[field] != asdict(plain)[field]
        }
        changed |= {"encoder"} if recipe.encoder else set()
        assert changed - {"window"} | {setting} == {setting}, name
        assert setting in changed, name


@pytest.mark.usefixtures("known_tokenizer")
@pytest.mark.parametrize("path", MADE, ids=lambda path: "/".join(path.parts[-3:]))
def test_every_recipe_trains_two_steps(path: Path, parent: str, tmp_path: Path) -> None:
    recipe = shrunk(read_recipe(path), parent)
    seen: list[dict[str, Any]] = []
    backbone = train(recipe, tmp_path, report=seen.append)
    assert [metrics["step"] for metrics in seen] == [1, 2]
    labels = {f"{number}:{entry.label}" for number, entry in enumerate(recipe.mixture)}
    assert {name.rpartition("/")[0] for name in seen[-1]["validation"]} == labels
    assert all(entry["loss"] > 0 for entry in seen[-1]["validation"].values())
    changed = dict(backbone.parameters())
    if recipe.parent is not None:
        before = dict(load_backbone(parent).parameters())
        frozen = {name for name in changed.keys() & before.keys() if torch.equal(changed[name], before[name])}
        named = {name for name in changed if any(fnmatch(name, pattern) for pattern in recipe.freeze)}
        assert frozen == named & before.keys()


@pytest.mark.usefixtures("known_tokenizer")
def test_a_model_from_scratch_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    entry = SupervisedEntry("group", 1, (8,), settings={"ratios": [8]}, level=1)
    recipe = Recipe("base", 1, (entry,), model=SMALL, tokens=1)
    one, same, other = (
        train(replace(recipe, seed=seed), tmp_path / name) for name, seed in (("one", 3), ("same", 3), ("other", 4))
    )
    weights = [dict(backbone.parameters()) for backbone in (one, same, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["model.embed_tokens.weight"], weights[2]["model.embed_tokens.weight"])
    config = load_backbone(tmp_path / "one" / "model").model.config
    sizes = (
        config.model_type,
        config.vocab_size,
        config.hidden_size,
        config.num_hidden_layers,
        config.tie_word_embeddings,
    )
    assert sizes == ("qwen3", 512, 32, 2, True)


GOOD = 'stage = "sft"\nsteps = 3\nparent = "runs/x"\n[[mixture]]\ntask = "cued"\nweight = 1\nsizes = [64]\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def test_a_recipe_is_read_with_its_types(tmp_path: Path) -> None:
    entry = "settings = { ratios = [4, 8] }\nbridges = [1, 2]\n"
    others = '[[groups]]\nmatch = ["a", "b"]\nlr = 1\n[schedule]\nkind = "cosine"\n'
    recipe = read_recipe(write(tmp_path, GOOD + entry + others))
    assert recipe.mixture == (SupervisedEntry("cued", 1.0, (64,), settings={"ratios": [4, 8]}, bridges=(1, 2)),)
    assert recipe.system(recipe.mixture[0]).train.ratios == (4, 8)
    assert recipe.groups == (Group(("a", "b"), lr=1.0),)
    assert (recipe.parent, recipe.schedule.kind, recipe.steps) == ("runs/x", "cosine", 3)


def test_settings_of_an_entry_are_checked_with_those_of_the_recipe(tmp_path: Path) -> None:
    """A window needs a trained compressor, which the recipe names for all entries."""
    shared = '[settings]\ncompressor = "trained"\nchunk = 64\n'
    entry = 'system = "kvbank"\nsettings = { window = 32 }\n'
    recipe = read_recipe(write(tmp_path, GOOD + entry + shared))
    assert recipe.system(recipe.mixture[0]).fold.window == 32
    with pytest.raises(ConfigError, match=r"mixture\[0\]\.settings: window = 32 is not possible; allowed: 0 with"):
        read_recipe(write(tmp_path, GOOD + entry))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("steps", "stepz"), "unknown key 'stepz'; nearest: 'steps'"),
        (GOOD + "levle = 4\n", "unknown key 'mixture[0].levle'; nearest: 'mixture[0].level'"),
        (
            GOOD + "settings = { raitos = [4] }\n",
            "mixture[0].settings: unknown pooled setting 'raitos'; nearest: 'ratios'; known: adapters, ",
        ),
        (
            GOOD + 'system = "recurrent"\nsettings = { notes = 9 }\n',
            "mixture[0].settings: unknown recurrent setting 'notes'; nearest: 'note'; known: about, adapters, ",
        ),
        (
            GOOD + "settings = { ratio = 8 }\n",
            "unknown key 'mixture[0].settings.ratio'; nearest: 'mixture[0].settings.ratios'",
        ),
        (GOOD + 'settings = { style = "bare" }\n', "unknown key 'mixture[0].settings.style'"),
        (GOOD.replace("steps = 3\n", ""), "steps is missing; it has no default"),
        (GOOD.replace("steps = 3", 'steps = "3"'), "steps = '3' is not possible; allowed: an integer"),
        (GOOD.replace("steps = 3", "steps = 0"), "steps = 0 is not possible; allowed: 1 or more"),
        (GOOD.replace("sft", "sfd"), "unknown stage 'sfd'; nearest: 'sft'; known: base, cpt1, cpt2, sft"),
        (GOOD.replace("cued", "queued"), "unknown mixture[0].task 'queued'; nearest: 'cued'; known: almanac, "),
        (GOOD + 'system = "poold"\n', "unknown mixture[0].system 'poold'; nearest: 'pooled'; known: full, "),
        (GOOD.replace("weight = 1", "weight = 0"), "mixture[0].weight = 0.0 is not possible; allowed: above 0"),
        (GOOD.replace("[64]", "[]"), "mixture[0].sizes = () is not possible; allowed: one or more positive numbers"),
        (
            GOOD + "settings = { ratios = [] }\n",
            "mixture[0].settings: ratios = () is not possible; allowed: one or more positive numbers",
        ),
        (
            GOOD + "bridges = [2, 1]\n",
            "mixture[0].bridges = (2, 1) is not possible; allowed: the minimum, then the maximum",
        ),
        (GOOD + "recall = 1.5\n", "mixture[0].recall = 1.5 is not possible; allowed: 0 to 1"),
        (GOOD.split("[[")[0], "a recipe has either a mixture of at least one entry or a preset"),
        ('preset = "paper"\n' + GOOD, "a recipe has either a mixture of at least one entry or a preset"),
        (GOOD.replace('parent = "runs/x"', ""), "a recipe names either a parent to start from or a [model] to create"),
        (
            GOOD + 'known = ["a.jsonl"]\n',
            "mixture[0].task 'cued' with known or in_text is not possible; only the tasks",
        ),
        (GOOD + "in_text = true\n", "mixture[0].task 'cued' with known or in_text is not possible; only the tasks"),
        (
            GOOD + 'places = "published"\n',
            "mixture[0].task 'cued' with places = 'published' is not possible; only task 'long-q",
        ),
        (GOOD + 'places = "fixed"\n', "unknown mixture[0].places 'fixed'; known: published, random"),
        (GOOD + "level = 4\n", "mixture[0].level = 4 is not possible; allowed: 0 to 3"),
        (GOOD + "language = nan\n", "mixture[0].language = nan is not possible; allowed: 0 or more"),
        ("clip = 0\n" + GOOD, "clip = 0.0 is not possible; allowed: above 0"),
        (GOOD + '[[groups]]\nmatch = ["*"]\nlr = -1\n', "groups[0].lr = -1.0 is not possible; allowed: 0 or more"),
        (GOOD + '[[groups]]\nmatch = ["*"]\nlr = inf\n', "groups[0].lr = inf is not possible; allowed: 0 or more"),
        (
            GOOD + '[[groups]]\nmatch = ["*"]\nbetas = [1, 0]\n',
            "groups[0].betas = (1.0, 0.0) is not possible; allowed: two",
        ),
        (
            GOOD + "[model]\nhidden = 8\n",
            "model.hidden = 8 is not possible; allowed: a multiple of 2 x heads, 12",
        ),
        (GOOD + "[model]\nlayers = 0\n", "model.layers = 0 is not possible; allowed: 1 or more"),
        (GOOD + "[model]\nhidden = 12\n", "a recipe names either a parent to start from or a [model] to create"),
        (GOOD + "[schedule]\nwarmup = 2.0\n", "schedule.warmup = 2.0 is not possible"),
    ],
)
def test_invalid_recipes_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_recipe(write(tmp_path, text))
    assert str(raised.value).startswith(message)


def test_what_is_no_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no recipe at"):
        read_recipe(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="is not a TOML file"):
        read_recipe(write(tmp_path, "steps = = 3"))
    (tmp_path / "recipe.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not a TOML file"):
        read_recipe(tmp_path / "recipe.toml")
    with pytest.raises(ConfigError, match="cannot read"):
        read_recipe(tmp_path)


def test_the_good_recipe_is_good() -> None:
    assert build(Recipe, tomllib.loads(GOOD)).stage == "sft"
