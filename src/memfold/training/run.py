"""Opens a run for either training loop: its processes, its folder and its checkpoint, and what both loops prepare.

Nothing is written before `create_folder`, so a refused run leaves no files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from memfold.backbone.folder import load_backbone
from memfold.backbone.model import Backbone
from memfold.core.errors import ConfigError
from memfold.core.lock import FolderLock
from memfold.tasks.datasets.corpus import check_files
from memfold.training import checkpoint, sharding
from memfold.training.checkpoint import Start
from memfold.training.fqlora import FQLoRA, adapt
from memfold.training.optimisers import Optimisers
from memfold.training.parent import frozen_dtype
from memfold.training.processes import Processes
from memfold.training.recipe import StageRecipe


@dataclass(frozen=True)
class Opening:
    """A run that is about to begin, or to continue from a checkpoint (`start`)."""

    recipe: StageRecipe
    folder: Path
    processes: Processes
    start: Start
    resolved: dict[str, Any]

    @property
    def resumed(self) -> bool:
        """Whether the run continues from a checkpoint."""
        return self.start.model is not None

    @property
    def device(self) -> str:
        """Device on which a model is loaded: the CPU for a sharded one, so that each device receives only its part."""
        return "cpu" if self.recipe.hardware.sharded else self.processes.device

    def load(self, where: str | Path, device: str) -> Backbone:
        """Return a model; with fqlora its adapters are not merged, and a base in 4 bits stays so."""
        return load_backbone(where, device, frozen_dtype(self.recipe), merged=self.recipe.fqlora is None)

    def create_folder(self) -> None:
        """Make the folder of a new run, or take the metrics of a resumed one back to its checkpoint."""
        if self.processes.first:
            checkpoint.settle(self.folder, self.resolved, self.start)

    def adapt(self, backbone: Backbone, fqlora: FQLoRA, base: str) -> None:
        """Choose the trained parameters by the recipe's fqlora."""
        if backbone.roles:
            roles = ", ".join(backbone.roles)
            raise ConfigError(f"fqlora is not possible with the adapters {roles}, which train beside a whole model")
        torch.manual_seed(self.recipe.seed)  # new LoRA matrices must be the same in every process
        adapt(backbone, fqlora, base)

    def shard(self, backbone: Backbone) -> None:
        """Spread the model over the processes where the recipe says so."""
        if self.recipe.hardware.sharded:
            sharding.shard(backbone, self.processes)

    def optimisers(self, named: Sequence[tuple[str, nn.Parameter]]) -> Optimisers:
        """Create the optimisers of the recipe, in the state of the checkpoint."""
        recipe = self.recipe
        optimisers = Optimisers(named, recipe.groups, recipe.freeze, recipe.schedule, recipe.steps)
        if self.start.optimisers:
            optimisers.load_state_dict(sharding.split_states(self.start.optimisers, optimisers))
        return optimisers


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder in the first of several processes, which alone writes to it.

    Raises:
        DataError: if another run writes to the folder.
    """
    with nullcontext() if int(os.environ.get("RANK", "0")) else FolderLock(folder):
        yield


def open_run(recipe: StageRecipe, folder: Path, resume: bool) -> Opening:
    """Check what a run needs, and find the checkpoint from which it continues.

    Raises:
        ConfigError, CheckpointError, DataError: before anything is written.
    """
    processes = Processes()
    resolved = json.loads(json.dumps(asdict(recipe)))
    check_files([file for entry in recipe.mixture for file in (*entry.files, *entry.known)])
    return Opening(recipe, folder, processes, checkpoint.start(folder, resolved, resume), resolved)


def trained_parameters(backbone: Backbone) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters that are to be trained, by name."""
    return [(name, parameter) for name, parameter in backbone.parameters() if parameter.requires_grad]
