"""`memfold train`: runs one stage of training from its recipe; the training loops are in the packages of `STAGES`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from memfold.core.config import build
from memfold.core.errors import CheckpointError, ConfigError, DataError, MemfoldError, unknown

if TYPE_CHECKING:
    from memfold.training.recipe import StageRecipe

NAME = "train"
# packages of stages, each with a `loop` and a `plan`; stages that are not listed are supervised
STAGES = {"rl": "memfold.rl"}
SUPERVISED = "memfold.training"
RECIPES, RUNS = Path("recipes"), Path("runs")


def command(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A .toml file, or a name under recipes/ such as pooled/tiny/sft.")
    ],
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be trained, and do not train.")] = False,
    steps: Annotated[
        int | None, typer.Option("--steps", help="Number of steps; by default that of the recipe.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder; by default under runs/.")] = None,
) -> None:
    """Train a model with a recipe.

    The run folder gets metrics.jsonl, curves.png, checkpoints and, at the end, the folder model/.
    """
    if dry_run and resume:
        raise ConfigError("--resume has no effect with --dry-run; leave one of them out")
    path = find_recipe(recipe)
    _need_extra()
    from memfold.training.recipe_file import read_values

    values = read_values(path)
    package = _package(values.get("stage"))
    chosen = build(import_module(f"{package}.recipe").RECIPE, values)
    chosen = chosen if steps is None else replace(chosen, steps=steps)
    folder = out or default_out(path)
    if chosen.architecture is not None:
        _check_size(import_module(f"{package}.plan"), chosen, folder, dry_run)
    if not dry_run:
        _check_run(chosen, folder, resume)
        _train(import_module(f"{package}.loop"), chosen, folder, resume)
    elif chosen.architecture is None:
        _show_plan(import_module(f"{package}.loop"), chosen, folder)


def find_recipe(name: str) -> Path:
    """Return the path of a recipe, which is given as a path or as a name under recipes/.

    Raises:
        ConfigError: if there is none; the message has the nearest name.
    """
    candidates = [Path(name), RECIPES / f"{name}.toml"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if not RECIPES.is_dir():
        raise ConfigError(f"no recipe at {name}, and no folder recipes/ here; run the command in the repository")
    known = [path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.rglob("*.toml")]
    raise unknown("recipe", name, known)


def default_out(path: Path) -> Path:
    """Return the default run folder, such as runs/pooled-tiny-sft for recipes/pooled/tiny/sft.toml."""
    parts = path.with_suffix("").parts
    start = len(parts) - parts[::-1].index(RECIPES.name) if RECIPES.name in parts else len(parts) - 1
    return RUNS / "-".join(parts[start:])


def _need_extra() -> None:
    for name in ("accelerate", "matplotlib"):
        if find_spec(name) is None:
            raise MemfoldError(f"training needs {name}; pip install 'memfold[train]'")


def _package(stage: str | None) -> str:
    """Return the package of a stage: `recipe` (with `RECIPE`), `loop` (with `prepare`, `train`) and `plan`."""
    from typing import get_args

    from memfold.training.recipe import Stage

    known = (*get_args(Stage), *STAGES)
    if stage is not None and stage not in known:
        raise unknown("stage", stage, known)
    return STAGES.get(stage or "", SUPERVISED)


def _check_run(recipe: StageRecipe, folder: Path, resume: bool) -> None:
    """Refuse what the loop would refuse before it loads anything; the first of several processes says so."""
    from memfold.tasks.datasets.corpus import check_files
    from memfold.training.checkpoint import check_start
    from memfold.training.parent import parent_of

    if int(os.environ.get("RANK", "0")):
        return
    check_files([file for entry in recipe.mixture for file in entry.files])
    check_start(folder, json.loads(json.dumps(asdict(recipe))), resume)
    if recipe.parent is not None and not resume:
        parent_of(recipe)


def _train(loop: ModuleType, recipe: StageRecipe, folder: Path, resume: bool) -> None:
    from memfold.cli.output import Interrupted, notes
    from memfold.cli.training import training
    from memfold.training import curves

    if int(os.environ.get("RANK", "0")):  # only the first of several processes reports
        loop.train(recipe, folder, resume)
        return
    try:
        with training(recipe.steps, _warning(recipe)) as report:
            loop.train(recipe, folder, resume, report)
    except KeyboardInterrupt:
        saved = any(folder.glob("step-??????"))
        state = "its last checkpoint is kept, add --resume to continue" if saved else "it had no checkpoint yet"
        raise Interrupted(f"interrupted; the run is in {folder}: {state}") from None
    plot = curves.draw(folder)
    notes().print(f"done: the model is in {folder / 'model'}, the curves are in {plot}", markup=False)


def _warning(recipe: StageRecipe) -> str | None:
    """Return a warning if a recipe trains in bfloat16 and this machine is slow at that."""
    import torch

    from memfold.backbone.device import computes_bfloat16

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if recipe.precision == "float32" or computes_bfloat16(device):
        return None
    return (
        "this processor has no instructions for bfloat16, so training takes several times as long as in float32; add "
        'precision = "float32" to a copy of the recipe'
    )


def _check_size(planner: ModuleType, recipe: StageRecipe, folder: Path, dry_run: bool) -> None:
    """Show the plan of a recipe for a published size; refuse devices that are too small before weights are loaded."""
    from memfold.cli.output import screen
    from memfold.cli.planning import device_memory, plan_lines
    from memfold.training.plan import check_fits

    if not dry_run:  # the launched processes, not those that the recipe assumes
        devices = int(os.environ.get("WORLD_SIZE", "1"))
        recipe = replace(recipe, hardware=replace(recipe.hardware, devices=devices))
    estimate = planner.plan(recipe)
    if dry_run:
        screen().print("\n".join([*plan_lines(recipe, estimate), f"run       {folder}"]), markup=False)
    check_fits(recipe, estimate, recipe.hardware.memory if dry_run else device_memory())


def _show_plan(loop: ModuleType, recipe: StageRecipe, folder: Path) -> None:
    """Print what a run would train, its data, and its folder."""
    from memfold.cli.output import screen

    total = sum(entry.weight for entry in recipe.mixture)
    lines = [
        f"stage     {recipe.stage}: {recipe.plan}",
        f"weights   {_weights(loop, recipe)}",
        *(
            f"{entry.weight / total:8.0%}  {entry.label}, documents of {', '.join(map(str, entry.sizes))} tokens"
            for entry in recipe.mixture
        ),
        f"run       {folder}",
    ]
    screen().print("\n".join(lines), markup=False)
    warning = _warning(recipe)
    if warning:
        screen().print(f"warning   {warning}", markup=False)


def _weights(loop: ModuleType, recipe: StageRecipe) -> str:
    """Return the counts of trained and frozen parameters of the prepared model, or why they cannot be counted."""
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        try:
            backbone = loop.prepare(recipe, Path(scratch)).backbone
        except (CheckpointError, DataError) as error:
            return f"of {recipe.parent}, not counted: {error}"
    counts = {True: 0, False: 0}
    for _, parameter in backbone.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    origin = "a new model" if recipe.parent is None else recipe.parent
    return f"of {origin}: {counts[True]:,} parameters trained, {counts[False]:,} frozen"
