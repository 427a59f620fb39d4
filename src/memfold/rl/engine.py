"""The engines that sample rollouts, by name: each is a file in `engines` and a line in the table.

Validation always uses the local engine, so that reported numbers do not depend on the engine of a run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from memfold.core import registry
from memfold.core.policy import Policy

if TYPE_CHECKING:
    from memfold.backbone.model import Backbone
    from memfold.rl.recipe import RlRecipe

LOCAL = "local"
ENGINES = {
    LOCAL: "memfold.rl.engines.local:LocalEngine",
    "vllm": "memfold.rl.engines.vllm:VllmEngine",
}


class Engine(Protocol):
    """Created once per run from its recipe, backbone and number of processes; the constructor starts nothing."""

    def policy(self) -> Policy:
        """Return a policy that samples with the current weights of the backbone; called once per step."""
        ...


def open_engine(recipe: RlRecipe, backbone: Backbone, processes: int) -> Engine:
    """Return the engine that a recipe names.

    Raises:
        ConfigError: when it is not installed or does not support the recipe.
    """
    engine: Engine = registry.load("engine", recipe.engine, ENGINES)(recipe, backbone, processes)
    return engine
