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
share = 0.5
sizes = [16]
[[mixture]]
task = "prose"
system = "full"
share = 0.5
sizes = [64]
level = 1
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_what_is_not_said_is_as_in_the_likeness(tmp_path: Path) -> None:
    baseline = write(tmp_path, "baseline.toml", BASELINE)
    row = write(tmp_path, "row.toml", 'like = "baseline.toml"\nsteps = 7\nsettings = { window = 64 }\n')
    one, other = read_recipe(baseline), read_recipe(row)
    assert (other.steps, other.settings) == (7, {"wrapper": "span", "window": 64})
    assert (other.mixture, other.parent, other.stage) == (one.mixture, one.parent, one.stage)
    again = write(tmp_path, "again.toml", 'like = "row.toml"\nsettings = { mask = "bidirectional" }\n')
    assert read_recipe(again).settings == {"wrapper": "span", "window": 64, "mask": "bidirectional"}
    assert read_recipe(again).steps == 7


def test_every_is_said_of_each_entry_of_the_mixture(tmp_path: Path) -> None:
    write(tmp_path, "baseline.toml", BASELINE)
    row = write(tmp_path, "row.toml", 'like = "baseline.toml"\nevery = { bridges = [0, 4], level = 2 }\n')
    found = read_recipe(row).mixture
    assert [(share.bridges, share.level, share.task) for share in found] == [((0, 4), 2, "group"), ((0, 4), 2, "prose")]


@pytest.mark.parametrize(("text", "message"), [
    ('like = "row.toml"', "is like itself, by way of .*; take one 'like' out"),
    ('like = "missing.toml"', "no recipe at .*missing.toml"),
    ("like = 3", "like = 3 must be the path of a recipe"),
    ('stage = "sft"\nevery = { level = 1 }', "must be a table of keys for the entries of a mixture"),
    ('like = "baseline.toml"\nevery = 3', "every = 3 must be a table"),
    ('like = "baseline.toml"\nevery = { levle = 3 }', r"unknown key 'mixture\[0\].levle'; nearest: "),
])  # fmt: skip
def test_impossible_likenesses_are_refused(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, "baseline.toml", BASELINE)
    row = write(tmp_path, "row.toml", text)
    with pytest.raises(ConfigError, match=message):
        read_recipe(row)


def test_a_circle_of_two_is_refused(tmp_path: Path) -> None:
    one, other = write(tmp_path, "one.toml", 'like = "other.toml"'), write(tmp_path, "other.toml", 'like = "one.toml"')
    for path in (one, other):
        with pytest.raises(ConfigError, match="is like itself"):
            read_values(path)
