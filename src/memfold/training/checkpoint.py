"""Checkpoints that describe themselves, written beside and renamed into place, so that a kill loses nothing.

A run folder holds `recipe.json` (as resolved), `metrics.jsonl`, `curves.png`, `step-NNNNNN/` (the newest two) and, at
the end, `model/`.  A checkpoint holds an ordinary model folder and `training.pt` (optimisers, best validation loss).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memfold.backbone.model import Backbone, save_backbone
from memfold.core.config import build
from memfold.core.errors import CheckpointError
from memfold.training.recipe import Recipe

KEPT = 2


@dataclass(frozen=True)
class Progress:
    """Where a run stands: steps done, tokens seen, and the early-stopping count."""

    step: int = 0
    tokens: int = 0
    best: float = float("inf")
    waited: int = 0


def save(run: Path, backbone: Backbone, progress: Progress, optimisers: list[dict[str, Any]],
         extra: dict[str, Any], weights: Mapping[str, Tensor] | None = None) -> Path:  # fmt: skip
    """Write the checkpoint of a step, with `weights` as `save_backbone` takes them; only the newest two stay."""
    final = run / f"step-{progress.step:06d}"
    partial = run / f"{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    save_backbone(backbone, partial / "model", weights=weights)
    state = {"progress": vars(progress), "optimisers": optimisers, "extra": extra}
    torch.save(state, partial / "training.pt")
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    for old in sorted(run.glob("step-??????"))[:-KEPT]:
        shutil.rmtree(old)
    return final


def newest(run: Path) -> Path:
    """The newest whole checkpoint of a run.

    Raises:
        CheckpointError: when the run has none.
    """
    found = sorted(run.glob("step-??????"))
    if not found:
        raise CheckpointError(f"nothing to resume in {run}: it has no checkpoint; start without --resume")
    return found[-1]


def load(checkpoint: Path) -> tuple[Progress, list[dict[str, Any]], dict[str, Any]]:
    """What `save` wrote beside the model."""
    try:
        state = torch.load(checkpoint / "training.pt", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{checkpoint} is damaged: {error}; delete it to resume from the one before") from error
    return Progress(**state["progress"]), state["optimisers"], state["extra"]


def check_recipe(run: Path, recipe: dict[str, Any]) -> None:
    """Refuse to resume a run under a recipe with other settings, naming the first that differs.

    What a stored recipe does not say has its default.
    """
    stored = resolved(build(Recipe, json.loads((run / "recipe.json").read_text())))
    for key in sorted(stored.keys() | recipe.keys()):
        if stored.get(key) != recipe.get(key):
            raise CheckpointError(
                f"{run} was started with {key} = {stored.get(key)!r}, the recipe says {recipe.get(key)!r}; "
                "use another --out or the recipe it was started with"
            )


def resolved(recipe: Recipe) -> dict[str, Any]:
    """All that a recipe says, as JSON has it."""
    found: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return found


def keep_until(path: Path, step: int) -> None:
    """Drop the lines of a metrics file that lie after a step; each step writes one, a kill may leave half of one."""
    if path.exists():
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:step]))
