"""Replies from the weights in this process: any system, any positions, any number of processes."""

from __future__ import annotations

from memfold.backbone.model import Backbone
from memfold.backbone.policy import LocalPolicy
from memfold.core.system import Policy
from memfold.evaluation.runner import cache_positions
from memfold.rl.recipe import RlRecipe


class LocalEngine:
    """The backbone itself, in batches that its device has room for."""

    def __init__(self, recipe: RlRecipe, backbone: Backbone, processes: int) -> None:
        self._policy = LocalPolicy(backbone, cache_positions(backbone))

    def policy(self) -> Policy:
        """Its weights are always those that are trained."""
        return self._policy
