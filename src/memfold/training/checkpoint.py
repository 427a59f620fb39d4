"""Self-describing checkpoints, written to a temporary folder and renamed into place, so that a kill loses nothing.

A run folder holds `recipe.json` (resolved), `metrics.jsonl`, `curves.png`, `step-NNNNNN/` (the newest two) and, at
the end, `model/`.  A checkpoint holds an ordinary model folder and `training.pt` (optimisers, best validation loss).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memfold.core.errors import CheckpointError, ConfigError
from memfold.core.outputs import check_folder, write_text, writing

if TYPE_CHECKING:
    from torch import Tensor

    from memfold.backbone.model import Backbone

KEPT = 2
RECIPE_FILE = "recipe.json"
WRITTEN = (RECIPE_FILE, "metrics.jsonl", "curves.png", "model", "encoder", "traces")
OPEN_TABLES = ("settings", "algorithm")  # free-form tables of a recipe: a missing key was not set


@dataclass(frozen=True)
class Progress:
    """Steps done, tokens seen, the best validation loss, and validations since it last improved."""

    step: int = 0
    tokens: int = 0
    best: float = float("inf")
    waited: int = 0


@dataclass(frozen=True)
class Start:
    """Where a run starts: progress, optimiser states, other saved state, and the model folder (None: a new run)."""

    progress: Progress = Progress()
    optimisers: list[dict[str, Any]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    model: Path | None = None


def start(run: Path, recipe: dict[str, Any], resume: bool) -> Start:
    """Read where a run starts; changes nothing.

    Raises:
        ConfigError, CheckpointError, DataError: as `check_start`, and for a damaged checkpoint.
    """
    where = check_start(run, recipe, resume)
    return Start() if where is None else Start(*load(where), where / "model")


def check_start(run: Path, recipe: dict[str, Any], resume: bool) -> Path | None:
    """Check that a run can start, and return the checkpoint from which it resumes; None for a new run.

    Raises:
        ConfigError: when a new run would overwrite another, or other files.
        CheckpointError: when there is nothing to resume, or it belongs to another recipe.
        DataError: when the folder cannot be written.
    """
    check_folder(run)
    if not resume:
        if any(run.glob("step-??????")):
            raise ConfigError(f"{run} already holds a run; add --resume to continue, or name another --out")
        _check_unused(run, recipe)
        return None
    where = newest(run)
    check_recipe(run, recipe)
    return where


def _check_unused(run: Path, recipe: dict[str, Any]) -> None:
    """Refuse a folder with files that a run writes, unless the same run was stopped before its first checkpoint."""
    begun = (run / RECIPE_FILE).is_file()
    if begun:
        check_recipe(run, recipe)
    for name in ("model",) if begun else WRITTEN:
        if os.path.lexists(run / name):
            raise ConfigError(f"{run} holds {name}, which a new run would replace; name another --out")


def settle(run: Path, recipe: dict[str, Any], begun: Start) -> None:
    """Create the folder of a new run, or truncate the metrics of a resumed run to its checkpoint."""
    if begun.model is not None:
        keep_until(run / "metrics.jsonl", begun.progress.step)
        return
    with writing(run):
        run.mkdir(parents=True, exist_ok=True)
        write_text(run / RECIPE_FILE, json.dumps(recipe, indent=2) + "\n")
        (run / "metrics.jsonl").unlink(missing_ok=True)


def write_metrics(run: Path, metrics: dict[str, Any]) -> None:
    """Append the line of a step."""
    with writing(run), (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(metrics) + "\n")


def save(
    run: Path,
    backbone: Backbone,
    progress: Progress,
    optimisers: list[dict[str, Any]],
    extra: dict[str, Any],
    weights: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write the checkpoint of a step and delete all but the newest two; `weights` are passed to `save_backbone`."""
    import torch

    from memfold.backbone.folder import save_backbone

    final = run / f"step-{progress.step:06d}"
    partial = run / f"{final.name}.partial"
    with writing(partial):
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
    """Return the newest complete checkpoint of a run.

    Raises:
        CheckpointError: when the run has none.
    """
    checkpoints = sorted(run.glob("step-??????"))
    if not checkpoints:
        raise CheckpointError(f"nothing to resume in {run}: it has no checkpoint; start without --resume")
    return checkpoints[-1]


def load(checkpoint: Path) -> tuple[Progress, list[dict[str, Any]], dict[str, Any]]:
    """Return progress, optimiser states and other state of a checkpoint, as given to `save`."""
    import torch

    try:
        state = torch.load(checkpoint / "training.pt", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{checkpoint} is damaged: {error}; delete it to resume from the previous one") from error
    return Progress(**state["progress"]), state["optimisers"], state["extra"]


def check_recipe(run: Path, recipe: dict[str, Any]) -> None:
    """Refuse to resume a run under a recipe with other settings; the error names the first difference.

    Keys that the stored recipe lacks are ignored: they were added to recipes after the run was started.
    """
    try:
        stored = json.loads((run / RECIPE_FILE).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{run / RECIPE_FILE} cannot be read: {error}; use another --out") from None
    if not isinstance(stored, dict):
        raise CheckpointError(f"{run / RECIPE_FILE} is not the recipe of a run; use another --out")
    for key in sorted(stored):
        if not _same({key: stored[key]}, recipe):
            raise CheckpointError(
                f"{run} was started with {key} = {stored.get(key)!r}, not {recipe.get(key)!r}; use another --out, or "
                "the recipe and options that it was started with"
            )


def _same(stored: Any, current: Any) -> bool:
    if isinstance(stored, dict) and isinstance(current, dict):
        return all(
            value == current.get(key) if key in OPEN_TABLES else _same(value, current.get(key))
            for key, value in stored.items()
        )
    if isinstance(stored, list) and isinstance(current, list):
        return len(stored) == len(current) and all(map(_same, stored, current))
    return bool(stored == current)


def keep_until(path: Path, step: int) -> None:
    """Drop the lines of a metrics file after a step, and an incomplete line that a kill may have left."""
    if not path.exists():
        return
    lines = path.read_text().splitlines(keepends=True)
    complete = (line for line in lines if line.endswith("\n"))
    write_text(path, "".join(line for line in complete if json.loads(line)["step"] <= step))
