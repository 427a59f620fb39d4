"""What samples the replies of a run, by name: one file for each engine in `engines`, and a line in the table.

Left out: the greedy replies to held-out questions, which are made in this process whatever the engine, so that what is
reported does not depend on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from memfold.core import registry
from memfold.core.system import Policy

if TYPE_CHECKING:
    from memfold.backbone.model import Backbone
    from memfold.rl.recipe import RlRecipe

LOCAL = "local"
ENGINES = {
    LOCAL: "memfold.rl.engines.local:LocalEngine",
    "vllm": "memfold.rl.engines.vllm:VllmEngine",
}


class Engine(Protocol):
    """Made once for a run, from its recipe, its backbone and the number of its processes; nothing is started yet."""

    def policy(self) -> Policy:
        """What samples with the weights that the backbone has now; asked for once a step."""
        ...


def open_engine(recipe: RlRecipe, backbone: Backbone, processes: int) -> Engine:
    """The engine that a recipe names.

    Raises:
        ConfigError: where it is not installed, or cannot do what the recipe asks for.
    """
    engine: Engine = registry.load("engine", recipe.engine, ENGINES)(recipe, backbone, processes)
    return engine
