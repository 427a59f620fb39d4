"""Sampling in this process with the trained weights: any system, any positions, any number of processes."""

from __future__ import annotations

import sys

from memfold.backbone.model import Backbone
from memfold.backbone.policy import LocalPolicy
from memfold.core.policy import Policy
from memfold.evaluation.runner import cache_positions
from memfold.rl.recipe import RlRecipe


class LocalEngine:
    """Samples with the backbone itself; on a CPU batches are limited by the memory of their key/value caches."""

    def __init__(self, recipe: RlRecipe, backbone: Backbone, processes: int) -> None:
        positions = cache_positions(backbone) if backbone.device.type == "cpu" else sys.maxsize
        self._policy = LocalPolicy(backbone, positions)

    def policy(self) -> Policy:
        """Return the same policy for every step: it uses the weights that are trained."""
        return self._policy
