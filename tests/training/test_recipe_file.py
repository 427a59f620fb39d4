from __future__ import annotations

from pathlib import Path

import pytest

from memfold.core.errors import ConfigError
from memfold.training.recipe import read_recipe
from memfold.training.recipe_file import read_values

BASELINE = """
stage = "cpt2"
parent = "runs/one"
steps = 100
settings = { wrapper = "span", window = 32 }
[[mixture]]
task = "group"
weight = 0.5
sizes = [16]
[[mixture]]
task = "prose"
system = "full"
weight = 0.5
sizes = [64]
level = 1
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_missing_keys_are_inherited(tmp_path: Path) -> None:
    baseline = write(tmp_path, "baseline.toml", BASELINE)
    row = write(tmp_path, "row.toml", 'like = "baseline.toml"\nsteps = 7\nsettings = { window = 64 }\n')
    one, other = read_recipe(baseline), read_recipe(row)
    assert (other.steps, other.settings) == (7, {"wrapper": "span", "window": 64})
    assert (other.mixture, other.parent, other.stage) == (one.mixture, one.parent, one.stage)
    again = write(tmp_path, "again.toml", 'like = "row.toml"\nsettings = { mask = "bidirectional" }\n')
    assert read_recipe(again).settings == {"wrapper": "span", "window": 64, "mask": "bidirectional"}
    assert read_recipe(again).steps == 7


def test_every_applies_to_each_entry_of_the_mixture(tmp_path: Path) -> None:
    write(tmp_path, "baseline.toml", BASELINE)
    row = write(tmp_path, "row.toml", 'like = "baseline.toml"\nevery = { bridges = [0, 4], level = 2 }\n')
    found = read_recipe(row).mixture
    assert [(entry.bridges, entry.level, entry.task) for entry in found] == [((0, 4), 2, "group"), ((0, 4), 2, "prose")]


def test_every_keeps_the_other_settings_of_an_entry(tmp_path: Path) -> None:
    text = BASELINE.replace("sizes = [16]\n", "sizes = [16]\nsettings = { ratios = [4], max_gap = 9 }\n")
    write(tmp_path, "baseline.toml", text.replace('system = "full"\n', ""))
    row = write(tmp_path, "row.toml", 'like = "baseline.toml"\nevery = { settings = { ratios = [8] } }\n')
    recipe = read_recipe(row)
    assert [entry.settings for entry in recipe.mixture] == [{"ratios": [8], "max_gap": 9}, {"ratios": [8]}]
    (first, second) = (recipe.system(entry) for entry in recipe.mixture)
    assert (first.train.ratios, first.train.max_gap, second.train.max_gap) == ((8,), 9, 0)
    assert (first.fold.wrapper, first.fold.window) == ("span", 32)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('like = "row.toml"', "inherits from itself through .*; remove one 'like'"),
        ('like = "missing.toml"', "no recipe at .*missing.toml"),
        ("like = 3", "like = 3 must be the path of a recipe"),
        ('stage = "sft"\nevery = { level = 1 }', "must be a table of keys for the entries of a mixture"),
        ('like = "baseline.toml"\nevery = 3', "every = 3 must be a table"),
        ('like = "baseline.toml"\nevery = { levle = 3 }', r"unknown key 'mixture\[0\].levle'; nearest: "),
    ],
)
def test_impossible_inheritance_is_refused(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, "baseline.toml", BASELINE)
    row = write(tmp_path, "row.toml", text)
    with pytest.raises(ConfigError, match=message):
        read_recipe(row)


def test_a_cycle_of_two_is_refused(tmp_path: Path) -> None:
    one, other = write(tmp_path, "one.toml", 'like = "other.toml"'), write(tmp_path, "other.toml", 'like = "one.toml"')
    for path in (one, other):
        with pytest.raises(ConfigError, match="inherits from itself"):
            read_values(path)
