"""`memfold train`: run one stage from its recipe.  Left out: what a step does (the packages of `STAGES`)."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from memfold.core.config import build
from memfold.core.errors import CheckpointError, ConfigError, DataError, MemfoldError, unknown

if TYPE_CHECKING:
    from memfold.training.recipe import StageRecipe

NAME = "train"
# the packages of stages: `loop` runs one, `plan` says what it takes; a stage that is not here is a supervised one
STAGES = {"rl": "memfold.rl"}
SUPERVISED = "memfold.training"
RECIPES, RUNS = Path("recipes"), Path("runs")


def command(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A .toml file, or a name such as pooled/tiny/sft.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be trained, and stop.")] = False,
    steps: Annotated[int | None, typer.Option("--steps", help="Instead of the recipe's.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder; by default under runs/.")] = None,
) -> None:
    """Train a model by one stage's recipe.

    The run folder gets metrics.jsonl, curves.png, checkpoints and, at the end, model/.
    """
    path = find_recipe(recipe)
    _need_extra()
    from memfold.training.recipe_file import read_values

    values = read_values(path)
    package = _package(values.get("stage"))
    loop = import_module(f"{package}.loop")
    found = build(loop.RECIPE, values)
    found = found if steps is None else replace(found, steps=steps)
    folder = out or default_out(path)
    if found.architecture is not None:
        _size(import_module(f"{package}.plan"), found, folder, dry_run)
    elif dry_run:
        _plan(loop, found, folder)
    if not dry_run:
        _train(loop, found, folder, resume)


def find_recipe(name: str) -> Path:
    """A recipe by its path, or by its name below recipes/.

    Raises:
        ConfigError: with the nearest name.
    """
    candidates = [Path(name), RECIPES / f"{name}.toml"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if not RECIPES.is_dir():
        raise ConfigError(f"no recipe at {name}, and no folder recipes/ here; run it in the repository")
    known = [path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.rglob("*.toml")]
    raise unknown("recipe", name, known)


def default_out(path: Path) -> Path:
    """runs/pooled-tiny-sft for recipes/pooled/tiny/sft.toml."""
    parts = path.with_suffix("").parts
    start = len(parts) - parts[::-1].index(RECIPES.name) if RECIPES.name in parts else len(parts) - 1
    return RUNS / "-".join(parts[start:])


def _need_extra() -> None:
    try:
        import accelerate
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MemfoldError(f"training needs {error.name}; pip install 'memfold[train]'") from None
    del accelerate


def _package(stage: str | None) -> str:
    """Where a stage's modules are: `loop` with `RECIPE`, `prepare`, `train`, and `plan`."""
    from typing import get_args

    from memfold.training.recipe import Stage

    known = (*get_args(Stage), *STAGES)
    if stage is not None and stage not in known:
        raise unknown("stage", str(stage), known)
    return STAGES.get(stage or "", SUPERVISED)


def _train(loop: ModuleType, recipe: StageRecipe, folder: Path, resume: bool) -> None:
    from memfold.cli.output import Interrupted, notes
    from memfold.cli.training import training
    from memfold.training import curves

    if int(os.environ.get("RANK", "0")):  # one of several processes; the first one reports
        loop.train(recipe, folder, resume)
        return
    try:
        with training(recipe.steps) as report:
            loop.train(recipe, folder, resume, report)
    except KeyboardInterrupt:
        saved = any(folder.glob("step-??????"))
        kept = "its last checkpoint is kept, add --resume to go on" if saved else "it had no checkpoint yet"
        raise Interrupted(f"interrupted; the run is in {folder}: {kept}") from None
    picture = curves.draw(folder)
    notes().print(f"done: the model is in {folder / 'model'}, the curves in {picture}", markup=False)


def _size(planner: ModuleType, recipe: StageRecipe, folder: Path, dry_run: bool) -> None:
    """Show the plan of a recipe for a published size; refuse devices that are too small for it, before any weights."""
    from memfold.cli.output import screen
    from memfold.cli.planning import device_memory, plan_lines
    from memfold.training.plan import check_fits

    if not dry_run:  # as many as there are
        devices = int(os.environ.get("WORLD_SIZE", "1"))
        recipe = replace(recipe, hardware=replace(recipe.hardware, devices=devices))
    found = planner.plan(recipe)
    if dry_run:
        screen().print("\n".join([*plan_lines(recipe, found), f"run       {folder}"]), markup=False)
    check_fits(recipe, found, recipe.hardware.memory if dry_run else device_memory())


def _plan(loop: ModuleType, recipe: StageRecipe, folder: Path) -> None:
    """What a run would train, on what, and where to."""
    from memfold.cli.output import screen

    total = sum(entry.share for entry in recipe.mixture)
    lines = [
        f"stage     {recipe.stage}: {recipe.plan}",
        f"weights   {_weights(loop, recipe)}",
        *(
            f"{entry.share / total:8.0%}  {entry.label}, documents of {', '.join(map(str, entry.sizes))} tokens"
            for entry in recipe.mixture
        ),
        f"run       {folder}",
    ]
    screen().print("\n".join(lines), markup=False)


def _weights(loop: ModuleType, recipe: StageRecipe) -> str:
    """Parameters trained and frozen, by making the model; where the parent or the data are not there yet, that."""
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
