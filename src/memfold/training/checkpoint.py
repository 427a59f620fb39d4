"""Checkpoints that describe themselves, written beside and renamed into place, so that a kill loses nothing.

A run folder holds `recipe.json` (as resolved), `metrics.jsonl`, `curves.png`, `step-NNNNNN/` (the newest two) and, at
the end, `model/`.  A checkpoint holds an ordinary model folder and `training.pt` (optimisers, best validation loss).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memfold.backbone.folder import save_backbone
from memfold.backbone.model import Backbone
from memfold.core.errors import CheckpointError, ConfigError

KEPT = 2


@dataclass(frozen=True)
class Progress:
    """Where a run stands: steps done, tokens seen, and the early-stopping count."""

    step: int = 0
    tokens: int = 0
    best: float = float("inf")
    waited: int = 0


@dataclass(frozen=True)
class Start:
    """Where a run takes up: progress, states of the optimisers, what else was kept, and the model (None: a new run)."""

    progress: Progress = Progress()
    optimisers: list[dict[str, Any]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    model: Path | None = None


def start(run: Path, recipe: dict[str, Any], resume: bool) -> Start:
    """Read where a run takes up, and change nothing.

    Raises:
        ConfigError: when a new run would lie over another.
        CheckpointError: when there is nothing to resume, or it belongs to another recipe.
    """
    if not resume:
        if any(run.glob("step-??????")):
            raise ConfigError(f"{run} holds a run already; add --resume to go on, or name another --out")
        return Start()
    where = newest(run)
    check_recipe(run, recipe)
    return Start(*load(where), where / "model")


def settle(run: Path, recipe: dict[str, Any], begun: Start) -> None:
    """Make the folder of a new run, or take a resumed one's metrics back to its checkpoint."""
    if begun.model is not None:
        keep_until(run / "metrics.jsonl", begun.progress.step)
        return
    run.mkdir(parents=True, exist_ok=True)
    (run / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")
    (run / "metrics.jsonl").unlink(missing_ok=True)


def write_metrics(run: Path, metrics: dict[str, Any]) -> None:
    """Append the line of a step."""
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(metrics) + "\n")


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

    A key that the stored recipe does not have was not there when the run was started, and does not count.
    """
    stored = json.loads((run / "recipe.json").read_text())
    for key in sorted(stored):
        if not _same(stored[key], recipe.get(key)):
            raise CheckpointError(
                f"{run} was started with {key} = {stored.get(key)!r}, the recipe says {recipe.get(key)!r}; "
                "use another --out or the recipe it was started with"
            )


def _same(stored: Any, said: Any) -> bool:
    if isinstance(stored, dict) and isinstance(said, dict):
        return all(_same(value, said.get(key)) for key, value in stored.items())
    if isinstance(stored, list) and isinstance(said, list):
        return len(stored) == len(said) and all(map(_same, stored, said))
    return bool(stored == said)


def keep_until(path: Path, step: int) -> None:
    """Drop the lines of a metrics file that lie after a step; a kill may leave half of one."""
    if not path.exists():
        return
    lines = path.read_text().splitlines(keepends=True)
    whole = (line for line in lines if line.endswith("\n"))
    path.write_text("".join(line for line in whole if json.loads(line)["step"] <= step))
