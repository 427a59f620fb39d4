from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from torch import nn

from memfold.core.errors import ConfigError
from memfold.training.optimisers import Optimisers
from memfold.training.recipe import Group, Schedule


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        # 10 steps, at their midpoints: 0.05, 0.15, ... 0.95
        (
            Schedule("trapezoid", warmup=0.2, decay=0.4, floor=0.1),
            [
                0.25,
                0.75,
                1,
                1,
                1,
                1,
                0.1 + 0.9 * 0.35 / 0.4,
                0.1 + 0.9 * 0.25 / 0.4,
                0.1 + 0.9 * 0.15 / 0.4,
                0.1 + 0.9 / 8,
            ],
        ),
        (Schedule("trapezoid", warmup=0.0, decay=1.0, floor=0.0), [1 - (step + 0.5) / 10 for step in range(10)]),
        (
            Schedule("cosine", warmup=0.2, floor=0.1),
            [
                0.25,
                0.75,
                *(0.1 + 0.45 * (1 + math.cos(math.pi * part / 16)) for part in (1, 3, 5, 7, 9, 11, 13, 15)),
            ],
        ),
    ],
)
def test_the_factor_of_every_step_by_hand(schedule: Schedule, factors: list[float]) -> None:
    assert [schedule.factor(step, 10) for step in range(10)] == pytest.approx(factors)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"warmup": 1.0}, "warmup = 1.0 is not possible"),
        ({"warmup": 0.7, "decay": 0.4}, "decay = 0.4 is not possible"),
        ({"decay": 0.0}, "decay = 0.0 is not possible"),
    ],
)
def test_impossible_schedules_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Schedule(**values)  # type: ignore[arg-type]


FLAT = Schedule("trapezoid", warmup=0.0, decay=1e-9, floor=1.0)
NAMES = {"layers.0.proj.weight": (3, 3), "layers.0.norm.weight": (3,), "embed.weight": (4, 3), "head.weight": (3, 3)}


@pytest.fixture
def named() -> list[tuple[str, nn.Parameter]]:
    torch.manual_seed(0)
    return [(name, nn.Parameter(torch.randn(shape))) for name, shape in NAMES.items()]


def test_each_weight_goes_to_the_first_group_that_matches(named: list[tuple[str, nn.Parameter]]) -> None:
    groups = (
        Group(("*proj.weight",), "muon", 0.1),
        Group(("unused*",)),
        Group(("embed*", "head*"), lr=0.2),
        Group(("*",), lr=0.3),
    )
    optimisers = Optimisers(named, groups, (), FLAT, 10)
    names = {id(weight): name for name, weight in named}
    placed = []
    for group, optimiser in optimisers.parts:
        (entry,) = optimiser.param_groups
        placed.append((group.lr, type(optimiser).__name__, [names[id(weight)] for weight in entry["params"]]))
    assert placed == [
        (0.1, "Muon", ["layers.0.proj.weight"]),
        (0.2, "AdamW", ["embed.weight", "head.weight"]),
        (0.3, "AdamW", ["layers.0.norm.weight"]),
    ]


def test_settings_reach_their_optimiser(named: list[tuple[str, nn.Parameter]]) -> None:
    group = Group(("*",), lr=0.5, weight_decay=0.25, betas=(0.5, 0.75))
    ((_, optimiser),) = Optimisers(named, (group,), (), FLAT, 10).parts
    (entry,) = optimiser.param_groups
    assert (entry["lr"], entry["weight_decay"], tuple(entry["betas"])) == (0.5, 0.25, (0.5, 0.75))


def test_a_step_follows_the_schedule(named: list[tuple[str, nn.Parameter]]) -> None:
    schedule = Schedule("trapezoid", warmup=0.5, decay=0.5, floor=0.0)
    optimisers = Optimisers(named, (Group(("embed*",), lr=1.0), Group(("*",), lr=0.1)), (), schedule, 4)
    before = {name: weight.detach().clone() for name, weight in named}
    for _, weight in named:
        weight.grad = torch.ones_like(weight)
    assert optimisers.step(0) == pytest.approx(0.25)
    for name, weight in named:  # the first step of Adam has the size of the learning rate
        rate = 0.25 * (1.0 if name == "embed.weight" else 0.1)
        torch.testing.assert_close(weight.detach(), before[name] - rate)
    assert all(weight.grad is None for _, weight in named)


def test_muon_takes_matrices_only(named: list[tuple[str, nn.Parameter]]) -> None:
    with pytest.raises(ConfigError, match=r"layers\.0\.norm\.weight has 1 dimensions, and Muon needs matrices"):
        Optimisers(named, (Group(("*",), "muon"),), (), FLAT, 10)


def test_a_weight_of_no_group_is_named(named: list[tuple[str, nn.Parameter]]) -> None:
    with pytest.raises(ConfigError, match=r"no optimiser group matches 'head\.weight'; add a last group"):
        Optimisers(named, (Group(("embed*", "layers*")),), (), FLAT, 10)
    Optimisers(named, (Group(("embed*", "layers*")),), ("head*",), FLAT, 10)


def test_frozen_weights_have_no_gradient_and_no_optimiser(named: list[tuple[str, nn.Parameter]]) -> None:
    optimisers = Optimisers(named, (Group(("*",)),), ("head*",), FLAT, 10)
    assert [weight.requires_grad for _, weight in named] == [True, True, True, False]
    assert len(optimisers.parameters) == 3
    assert all(weight is not named[3][1] for weight in optimisers.parameters)


def test_a_pattern_that_freezes_nothing_is_refused(named: list[tuple[str, nn.Parameter]]) -> None:
    with pytest.raises(ConfigError, match=r"freeze 'heads\.pooled' matches no parameter"):
        Optimisers(named, (Group(("*",)),), ("embed*", "heads.pooled"), FLAT, 10)


def test_a_restored_state_goes_on_as_if_unbroken(named: list[tuple[str, nn.Parameter]]) -> None:
    groups = (Group(("*proj.weight",), "muon", 0.1), Group(("*",), lr=0.1))
    copies = [(name, nn.Parameter(weight.detach().clone())) for name, weight in named]
    first, second = (Optimisers(each, groups, (), FLAT, 10) for each in (named, copies))
    for number in range(2):
        _step(named, first, number)
    for (_, copy), (_, weight) in zip(copies, named, strict=True):
        copy.data.copy_(weight.data)
    second.load_state_dict(deepcopy(first.state_dict()))
    for each, optimisers in ((named, first), (copies, second)):
        _step(each, optimisers, 2)
    assert all(torch.equal(copy, weight) for (_, copy), (_, weight) in zip(copies, named, strict=True))


def _step(named: list[tuple[str, nn.Parameter]], optimisers: Optimisers, number: int) -> None:
    for _, weight in named:
        weight.grad = torch.full_like(weight, 1.0 + number) * weight.detach()
    optimisers.step(number)
