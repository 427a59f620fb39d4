"""Parameter groups, each with its own optimiser and learning rate, stepped together."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from memfold.core.errors import ConfigError
from memfold.training.recipe import Group, Schedule


class Optimisers:
    """One torch optimiser for each group that has parameters, and a second one for its sharded parameters.

    Frozen parameters (`freeze` patterns) get no gradient and belong to no group.

    Raises:
        ConfigError: for a trained parameter that no group matches, a Muon group with a parameter that is not a matrix,
            or a `freeze` pattern that matches nothing.
    """

    def __init__(
        self,
        named: Sequence[tuple[str, nn.Parameter]],
        groups: Sequence[Group],
        freeze: Sequence[str],
        schedule: Schedule,
        steps: int,
    ) -> None:
        self.schedule, self.steps = schedule, steps
        for pattern in freeze:
            if not any(fnmatch(name, pattern) for name, _ in named):
                raise ConfigError(f"freeze {pattern!r} matches no parameter; heads are named 'heads.SYSTEM.*'")
        members: list[tuple[list[nn.Parameter], list[nn.Parameter]]] = [([], []) for _ in groups]
        self.parameters: list[nn.Parameter] = []
        for name, parameter in named:
            if is_frozen(name, freeze):
                parameter.requires_grad_(False)
                continue
            parameter.requires_grad_(True)
            members[_group_of(name, parameter, groups)][isinstance(parameter, DTensor)].append(parameter)
            self.parameters.append(parameter)
        self.parts = [
            (group, _make(group, parameters))
            for group, (whole, sharded) in zip(groups, members, strict=True)
            for parameters in (whole, sharded)
            if parameters
        ]

    def step(self, number: int) -> float:
        """Update all parameters with the learning rates of step `number`.  Returns the schedule's factor."""
        factor = self.schedule.factor(number, self.steps)
        for group, optimiser in self.parts:
            for entry in optimiser.param_groups:
                entry["lr"] = group.lr * factor
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return factor

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the states of all optimisers, in the order of their groups."""
        return [optimiser.state_dict() for _, optimiser in self.parts]

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Restore states returned by `state_dict`."""
        for (_, optimiser), state in zip(self.parts, states, strict=True):
            optimiser.load_state_dict(state)


def is_frozen(name: str, freeze: Sequence[str]) -> bool:
    """Return whether one of the patterns matches."""
    return any(fnmatch(name, pattern) for pattern in freeze)


def _group_of(name: str, parameter: nn.Parameter, groups: Sequence[Group]) -> int:
    for index, group in enumerate(groups):
        if any(fnmatch(name, pattern) for pattern in group.match):
            if group.kind == "muon" and parameter.ndim != 2:
                raise ConfigError(
                    f"{name} has {parameter.ndim} dimensions, and Muon needs matrices: match it in another group"
                )
            return index
    raise ConfigError(f"no optimiser group matches {name!r}; add a last group with match = ['*'] or freeze it")


def _make(group: Group, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if group.kind == "muon":
        return torch.optim.Muon(parameters, lr=group.lr, weight_decay=group.weight_decay)
    return torch.optim.AdamW(parameters, lr=group.lr, betas=group.betas, weight_decay=group.weight_decay, fused=True)
