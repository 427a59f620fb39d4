"""Every key of every recipe: a wrong one names the nearest, a wrong value what is allowed, each with its path."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfold.core.config import build
from memfold.core.errors import ConfigError
from memfold.rl.algorithm import Algorithm
from memfold.rl.recipe import RlRecipe
from memfold.training.fqlora import FQLoRA
from memfold.training.recipe import Recipe

Path = tuple[str | int, ...]
ENTRY = {"task": "almanac", "weight": 1.0, "sizes": [64]}
OPEN_TABLES = ("settings",)  # their keys are those of systems
NONSENSE = "zzzzzz"


def filled(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    """A recipe with every key of every table, as a file may write them; keys without a value are left out."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items() if each is not None}
        return [plain(each) for each in value] if isinstance(value, tuple | list) else value

    whole: dict[str, Any] = plain(asdict(build(cls, values)))
    return whole


SFT = filled(Recipe, {"stage": "sft", "steps": 3, "parent": "runs/x", "mixture": [ENTRY], "fqlora": asdict(FQLoRA(2))})
BASE = filled(Recipe, {"stage": "base", "steps": 3, "model": {}, "mixture": [ENTRY], "architecture": "qwen2.5-7b"})
RL = filled(
    RlRecipe, {"stage": "rl", "steps": 3, "parent": "runs/x", "mixture": [ENTRY], "algorithm": asdict(Algorithm())}
)
RECIPES: dict[str, tuple[type, dict[str, Any]]] = {
    "sft": (Recipe, SFT),
    "base": (Recipe, BASE),
    "rl": (RlRecipe, RL | {"preset": "grpo"}),
}


def paths(values: Any, path: Path = ()) -> Iterator[Path]:
    """The path of every key, tables included; of a list of tables, of each of them."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield (*path, key)
            if key not in OPEN_TABLES:
                yield from paths(value, (*path, key))
    elif isinstance(values, list):
        for number, value in enumerate(values):
            if isinstance(value, dict):
                yield from paths(value, (*path, number))


def shown(path: Path) -> str:
    return re.sub(r"\.\[", "[", ".".join(f"[{part}]" if isinstance(part, int) else part for part in path))


def at(values: Any, path: Path) -> Any:
    for part in path:
        values = values[part]
    return values


def changed(recipe: str, path: Path, value: Any) -> tuple[type, dict[str, Any]]:
    cls, values = RECIPES[recipe]
    values = copy.deepcopy(values)
    at(values, path[:-1])[path[-1]] = value
    return cls, values


def refusal(cls: type, values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        build(cls, values)
    return str(caught.value)


def problem(cls: type, values: dict[str, Any]) -> str | None:
    """The error of a recipe; None if it can be built."""
    try:
        build(cls, values)
    except ConfigError as error:
        return str(error)
    return None


CASES = [(recipe, path) for recipe, (_, values) in RECIPES.items() for path in paths(values)]
IDS = [f"{recipe}-{shown(path)}" for recipe, path in CASES]


def misspelt(name: str) -> str:
    """The name with its last letter doubled, in other case."""
    return (name + name[-1]).upper()


@pytest.mark.parametrize(("recipe", "path"), CASES, ids=IDS)
def test_a_misspelt_key_names_the_nearest(recipe: str, path: Path) -> None:
    cls, values = RECIPES[recipe]
    values = copy.deepcopy(values)
    table, wrong = at(values, path[:-1]), misspelt(str(path[-1]))
    table[wrong] = table.pop(path[-1])
    message = refusal(cls, values)
    assert message.startswith(f"unknown key '{shown((*path[:-1], wrong))}'; nearest: '{shown(path)}'; known: ")


@pytest.mark.parametrize(("recipe", "path"), CASES, ids=IDS)
def test_a_value_of_another_kind_says_what_is_allowed(recipe: str, path: Path) -> None:
    value = at(RECIPES[recipe][1], path)
    wrong: Any = 7 if isinstance(value, dict | list | str) else [{}]
    message = refusal(*changed(recipe, path, wrong))
    possible = message.startswith(f"{shown(path)} = {wrong!r} is not possible; allowed: ")
    assert possible or message.startswith(f"unknown {shown(path)} {wrong!r}; known: ")


NAMED = [(recipe, path) for recipe, path in CASES if isinstance(at(RECIPES[recipe][1], path), str)]


@pytest.mark.parametrize(("recipe", "path"), NAMED, ids=[f"{recipe}-{shown(path)}" for recipe, path in NAMED])
def test_a_misspelt_name_names_the_nearest(recipe: str, path: Path) -> None:
    if path[-1] in ("parent", "model"):  # a place or an address, not a name of a table
        return
    wrong = refusal(*changed(recipe, path, NONSENSE))
    found = re.fullmatch(rf"unknown [\w.\[\]]+ '{NONSENSE}'; known: (.*)", wrong)
    assert found, wrong
    for name in found[1].split(", "):
        message = refusal(*changed(recipe, path, misspelt(name)))
        assert f"unknown {wrong.split(' ')[1]} {misspelt(name)!r}; nearest: {name!r}; known: " in message


NUMBERS = st.integers() | st.floats()
ANY = st.none() | st.booleans() | NUMBERS | st.text(max_size=8)
VALUES = ANY | st.lists(ANY, max_size=3) | st.dictionaries(st.text(max_size=4), ANY, max_size=2)


@given(case=st.sampled_from(CASES), value=VALUES)
def test_no_value_of_any_key_raises_anything_else(case: tuple[str, Path], value: Any) -> None:
    recipe, path = case
    message = problem(*changed(recipe, path, value))
    assert message is None or str(path[-1]) in message
    assert "\n" not in (message or "").replace(repr(value), "")


@given(case=st.sampled_from(CASES), value=NUMBERS)
def test_a_number_out_of_range_says_the_range(case: tuple[str, Path], value: float) -> None:
    recipe, path = case
    if not isinstance(at(RECIPES[recipe][1], path), int | float):
        return
    message = problem(*changed(recipe, path, value))
    assert message is None or re.search(r" is not possible(; allowed: |\b.*: )", message), message


@pytest.mark.parametrize(
    ("task", "kinds", "message"),
    [
        (
            "almanac",
            ["one-hopp"],
            "unknown mixture[0].kinds 'one-hopp'; nearest: 'one-hop'; known: absent, comparison, ",
        ),
        ("needle", ["number", "uid"], "unknown mixture[0].kinds 'uid'; nearest: 'uuid'; known: code, date, name, "),
        ("reconstruction", ["numbr"], "unknown mixture[0].kinds 'numbr'; nearest: 'number'; known: code, "),
        ("induction", ["cycles"], "unknown mixture[0].kinds 'cycles'; nearest: 'cycle'; known: cycle, spans"),
        ("prose", ["word"], "mixture[0].kinds = ['word'] is not possible: task 'prose' has none; leave it out"),
    ],
)
def test_kinds_are_those_of_the_task(task: str, kinds: list[str], message: str) -> None:
    assert refusal(*changed("sft", ("mixture", 0), ENTRY | {"task": task, "kinds": kinds})).startswith(message)
