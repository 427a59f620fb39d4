"""Replies from the weights in this process: any system, any positions, any number of processes."""

from __future__ import annotations

import sys

from memfold.backbone.model import Backbone
from memfold.backbone.policy import LocalPolicy
from memfold.core.system import Policy
from memfold.evaluation.runner import cache_positions
from memfold.rl.recipe import RlRecipe


class LocalEngine:
    """The backbone itself, the recipe's `places` at a time; on a CPU in batches that its caches have room for."""

    def __init__(self, recipe: RlRecipe, backbone: Backbone, processes: int) -> None:
        positions = cache_positions(backbone) if backbone.device.type == "cpu" else sys.maxsize
        self._policy = LocalPolicy(backbone, positions)

    def policy(self) -> Policy:
        """Its weights are always those that are trained."""
        return self._policy
