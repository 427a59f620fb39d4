from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from memfold.core import registry
from memfold.core.config import build, require
from memfold.core.errors import CallError, ConfigError, MemfoldError, unknown
from memfold.core.registry import SYSTEMS, load, make_system, system_class


@dataclass(frozen=True)
class Leaf:
    size: int
    weight: float = 1.0

    def __post_init__(self) -> None:
        require(self.size > 0, "size", self.size, "1 or more")


@dataclass(frozen=True)
class Tree:
    name: str
    leaves: tuple[Leaf, ...] = ()
    best: Leaf | None = None
    kind: Literal["oak", "elm"] = "oak"
    pair: tuple[float, float] = (0.0, 1.0)
    tags: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    evergreen: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


def test_nested_values_are_built_with_their_types() -> None:
    tree = build(
        Tree,
        {
            "name": "a",
            "leaves": [{"size": 1}, {"size": 2, "weight": 3}],
            "best": {"size": 4},
            "kind": "elm",
            "pair": [1, 2.5],
            "tags": ["x"],
            "counts": {"b": 2},
            "evergreen": True,
            "extra": {"any": [1, "two"]},
        },
    )
    assert tree == Tree(
        "a", (Leaf(1), Leaf(2, 3.0)), Leaf(4), "elm", (1.0, 2.5), ["x"], {"b": 2}, True, {"any": [1, "two"]}
    )
    assert [type(tree.leaves[1].weight), type(tree.pair[0])] == [float, float]


def test_omitted_values_have_their_default() -> None:
    assert build(Tree, {"name": "a"}) == Tree("a")
    assert build(Tree, {"name": "a", "best": None}).best is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nam": "a"}, "unknown key 'nam'; nearest: 'name'; known: best, counts, evergreen, extra, kind, leaves, "),
        (
            {"name": "a", "leaves": [{"size": 1}, {"sice": 1}]},
            "unknown key 'leaves[1].sice'; nearest: 'leaves[1].size'",
        ),
        ({"name": "a", "best": {"size": 1, "wait": 1}}, "unknown key 'best.wait'; nearest: 'best.weight'"),
        ({}, "name is missing; it has no default"),
        ({"name": "a", "leaves": [{"weight": 1.0}]}, "leaves[0].size is missing; it has no default"),
        ({"name": 3}, "name = 3 is not possible; allowed: a string"),
        ({"name": "a", "leaves": [{"size": 1.5}]}, "leaves[0].size = 1.5 is not possible; allowed: an integer"),
        ({"name": "a", "leaves": [{"size": True}]}, "leaves[0].size = True is not possible; allowed: an integer"),
        (
            {"name": "a", "leaves": [{"size": 1, "weight": True}]},
            "leaves[0].weight = True is not possible; allowed: a number",
        ),
        ({"name": "a", "leaves": [7]}, "leaves[0] = 7 is not possible; allowed: a table"),
        ({"name": "a", "leaves": {"size": 1}}, "leaves = {'size': 1} is not possible; allowed: a list"),
        ({"name": "a", "best": "leaf"}, "best = 'leaf' is not possible; allowed: a table"),
        ({"name": "a", "kind": "ash"}, "unknown kind 'ash'; known: elm, oak"),
        ({"name": "a", "kind": "OKA"}, "unknown kind 'OKA'; nearest: 'oak'; known: elm, oak"),
        ({"name": "a", "kind": ["oak"]}, "unknown kind ['oak']; "),
        ({"name": "a", "leaves": [{"size": 1, "weight": 10**400}]}, "leaves[0].weight = 1000"),
        ({"name": "a", "pair": [1.0]}, "pair = [1.0] is not possible; allowed: a list of two values"),
        ({"name": "a", "pair": [1.0, "b"]}, "pair[1] = 'b' is not possible; allowed: a number"),
        ({"name": "a", "tags": "xyz"}, "tags = 'xyz' is not possible; allowed: a list"),
        ({"name": "a", "tags": ["x", 1]}, "tags[1] = 1 is not possible; allowed: a string"),
        ({"name": "a", "counts": [1]}, "counts = [1] is not possible; allowed: a table"),
        ({"name": "a", "counts": {"b": "c"}}, "counts.b = 'c' is not possible; allowed: an integer"),
        ({"name": "a", "evergreen": 1}, "evergreen = 1 is not possible; allowed: true or false"),
        ({"name": "a", "best": {"size": 0}}, "best.size = 0 is not possible; allowed: 1 or more"),
    ],
)
def test_an_invalid_value_is_reported_with_its_path(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        build(Tree, values)
    assert str(raised.value).startswith(message)


def test_the_reported_path_starts_with_the_given_one() -> None:
    with pytest.raises(ConfigError, match=r"^recipe\.leaves\[0\]\.size is missing"):
        build(Tree, {"name": "a", "leaves": [{}]}, "recipe")


def test_there_is_no_nearest_name_in_an_empty_table() -> None:
    assert str(unknown("model", "tiny", ())) == "unknown model 'tiny'; known: none"


def test_the_registry_loads_every_system_under_its_own_name() -> None:
    assert {name: system_class(name).name for name in SYSTEMS} == {name: name for name in SYSTEMS}


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_setting_of_a_system_can_be_set(name: str) -> None:
    kind = system_class(name)
    default = kind().settings
    assert set(kind.setting_names()) >= default.keys() >= {"chat_template", "style", "chunk"}
    assert kind.of(default).settings == default


def test_the_registry_suggests_the_nearest_system() -> None:
    with pytest.raises(ConfigError, match="nearest: 'pooled'; known: full, kvbank, pooled, recurrent, retrieval"):
        system_class("poled")
    assert load("function", "load", {"load": "memfold.core.registry:load"}) is registry.load


def test_a_system_gets_the_settings_that_the_model_was_trained_with() -> None:
    trained: dict[str, dict[str, Any]] = {"pooled": {"wrapper": "none", "ratios": [4, 8]}}
    model: Any = SimpleNamespace(name="tiny", has_weights=True, answering={"chat_template": "chatml"}, trained=trained)
    made = make_system("pooled", model).settings
    assert (made["wrapper"], made["ratio"], made["chat_template"]) == ("none", 8, "chatml")
    assert make_system("pooled", model, {"ratio": 4, "wrapper": "slot"}).settings["wrapper"] == "slot"
    trained["pooled"]["ratios"] = [4, 16, 64]
    assert make_system("pooled", model).settings["ratio"] == 16
    assert tuple(system_class("pooled").trained_ratios(trained["pooled"])) == (4, 16, 64)
    assert system_class("full").trained_ratios({}) == ()
    known = "chat_template, chunk, max_tokens, read_loss, repetition_penalty, style"
    with pytest.raises(ConfigError, match=f"unknown full setting 'ratio'; known: {known}"):
        make_system("full", model, {"ratio": 4})
    model.has_weights = False
    with pytest.raises(ConfigError, match="system 'pooled' is not possible with model 'tiny'"):
        make_system("pooled", model)


def test_errors_carry_the_exit_code_of_the_command_line() -> None:
    assert (MemfoldError.exit_code, ConfigError("a").exit_code, CallError("policy", "a").exit_code) == (2, 2, 1)
    assert (CallError("policy", "a").boundary, str(CallError("policy", "a"))) == ("policy", "policy: a")
