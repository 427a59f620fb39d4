"""The training loop of reinforcement learning for any system: draw questions, sample replies, score them, update.

A step is a pure function of the weights, the optimisers and its number.  Its parts are in `rollout`, `rewards`,
`advantages` and `losses`; the communication between processes is in `training.processes`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from memfold.backbone.folder import save_encoder
from memfold.backbone.model import DTYPES, Backbone
from memfold.backbone.resolve import model_folder
from memfold.core.errors import CallError, CheckpointError, ConfigError
from memfold.core.outputs import writing
from memfold.core.registry import make_system
from memfold.rl.collect import Group, check_failures, collect, validate
from memfold.rl.engine import Engine, open_engine
from memfold.rl.questions import draw
from memfold.rl.recipe import END_TO_END, RlRecipe
from memfold.rl.rewards import JUDGE, Judging, Rules, Scorer, find_reward
from memfold.rl.trace_file import write_groups
from memfold.rl.update import Trainer, Updated
from memfold.scoring.judge import open_judge
from memfold.training import checkpoint, sharding
from memfold.training.checkpoint import Progress
from memfold.training.parent import check_architecture, frozen_dtype
from memfold.training.processes import Processes
from memfold.training.run import open_run, run_lock, trained_parameters

Report = Callable[[dict[str, Any]], None]
ENCODER, TRACES = "encoder", "traces"


@dataclass
class Run:
    """Everything that a step needs."""

    recipe: RlRecipe
    folder: Path
    trainer: Trainer
    engine: Engine
    scorer: Scorer
    processes: Processes
    progress: Progress
    groups: list[Group] = field(default_factory=list)  # of the last step, followed by its failed ones

    @property
    def backbone(self) -> Backbone:
        """The backbone that is trained."""
        return self.trainer.backbone


def train(recipe: RlRecipe, folder: Path, resume: bool = False, report: Report | None = None) -> Backbone:
    """Run the stage to its end.  Returns the trained backbone, which is also saved in `folder`/model.

    Raises:
        ConfigError, CheckpointError, DataError: before anything is trained.
        CallError: for a loss or gradient that is not finite, a trainer that differs from its sampler, or too many
            failed rollouts; the last checkpoint stays.
    """
    with run_lock(folder):
        return _train(prepare(recipe, folder, resume), report)


def _train(run: Run, report: Report | None) -> Backbone:
    """Take the steps that a run still has to take, and save its model."""
    recipe = run.recipe
    if not run.progress.step:
        _report(run, {"step": 0, "tokens": 0, "figures": {}, "rewards": {}, "validation": _validated(run)}, report)
    while run.progress.step < recipe.steps:
        try:
            metrics = step(run)
        except CallError:
            _write_traces(run, run.progress.step + 1)
            raise
        done = run.progress.step
        last = done == recipe.steps
        if done % recipe.validate_every == 0 or last:
            metrics["validation"] = _validated(run)
            _write_traces(run, done)
        _report(run, metrics, report)
        if done % recipe.checkpoint_every == 0 or last:
            _checkpoint(run)
    sharding.save_model(run.backbone, run.folder / "model", run.processes)
    run.processes.close()
    return run.backbone


def prepare(recipe: RlRecipe, folder: Path, resume: bool = False) -> Run:
    """Load the model, its encoder, the reference and the optimisers; open reward and engine; create the run folder."""
    opening = open_run(recipe, folder, resume)
    start, processes = opening.start, opening.processes
    parent = start.model or model_folder(str(recipe.parent))
    backbone = opening.load(parent, opening.device)
    check_architecture(recipe, backbone)
    _check_encoder(recipe, backbone)
    _prepare_systems(recipe, backbone)
    for number, entry in enumerate(recipe.mixture):
        draw(recipe, backbone, number, "check", entry)
    scorer = make_scorer(recipe, processes.count)
    if recipe.fqlora is not None:
        opening.adapt(backbone, recipe.fqlora, str(parent.resolve()))
        _keep_four_bits(backbone)
    opening.shard(backbone)
    named = trained_parameters(backbone)
    optimisers = opening.optimisers(named)
    engine = open_engine(recipe, backbone, processes.count)
    opening.create_folder()
    if recipe.needs_encoder or backbone.reads:
        encoder = backbone.encoder or opening.load(parent, processes.device)
        _only_read(encoder, recipe, processes.device)
        _keep_encoder(backbone, encoder, folder, new=processes.first and not opening.resumed)
    _describe(recipe, backbone)
    _restore(start.extra.get("processes", ()), scorer, recipe.seed, processes.number)
    backbone.set_attention(recipe.attention)
    reference = None
    if recipe.options.beta:
        reference = opening.load(model_folder(str(recipe.parent)), processes.device)
        reference.encoder = None  # it only scores replies, with memories that exist already
        _prepare_systems(recipe, reference)  # an adapter that the parent lacks has no effect at first
        _only_read(reference, recipe, processes.device)
    processes.wait()  # otherwise a slow process could take the first checkpoint for that of an earlier run
    trainer = Trainer(recipe, backbone, optimisers, processes, reference)
    return Run(recipe, folder, trainer, engine, scorer, processes, start.progress)


def make_scorer(recipe: RlRecipe, processes: int = 1) -> Scorer:
    """Return the scorer of a run; the budget of a judge is divided among processes."""
    if recipe.reward == JUDGE:
        return Judging(open_judge(recipe.judge.model), recipe.judge.budget // processes)
    return Rules(find_reward(recipe.reward), turns=recipe.options.credit == "turn")


def step(run: Run) -> dict[str, Any]:
    """Make one step, that is, rollouts with refills and then updates, and return its metrics."""
    recipe, number, processes = run.recipe, run.progress.step, run.processes
    started = time.perf_counter()
    run.groups = []
    with sharding.gathered(run.backbone):
        collected = collect(recipe, run.backbone, run.engine.policy(), run.scorer, processes, number)
    run.groups = collected.groups + collected.failed
    counts = processes.gather(collected.counts)
    total = sum(counts[1:], counts[0])
    check_failures(total, recipe.failures, number)
    sampled = time.perf_counter()
    updated = run.trainer.step(collected.groups, number)
    ended = time.perf_counter()
    run.progress = replace(run.progress, step=number + 1, tokens=run.progress.tokens + total.tokens)
    return {
        "step": number + 1,
        "tokens": run.progress.tokens,
        "rate": updated.rate,
        "norm": round(updated.norm, 5),
        "figures": total.figures() | _figures(updated),
        "rewards": total.rewards(),
        "failures": dict(total.reasons.most_common()),
        "seconds": {"rollout": round(sampled - started, 3), "update": round(ended - sampled, 3)},
        "tokens_per_second": round(total.tokens / (ended - started), 1),
    }


def _validated(run: Run) -> dict[str, dict[str, float]]:
    """Validate the current weights; before the first step, this is the baseline of the run."""
    with sharding.gathered(run.backbone):
        return validate(run.recipe, run.backbone, run.scorer, run.processes)


def _report(run: Run, metrics: dict[str, Any], report: Report | None) -> None:
    """Write the metrics of a step and report them, in the first process only."""
    if run.processes.first:
        checkpoint.write_metrics(run.folder, metrics)
        if report is not None:
            report(metrics)


def _write_traces(run: Run, number: int) -> None:
    """Write the traces of a step, counted from 1, including failed ones."""
    if run.processes.first and run.groups:
        write_groups(run.folder / TRACES / f"step-{number:06d}.jsonl", run.groups)


def _figures(updated: Updated) -> dict[str, float]:
    return {name: round(value, 6) for name, value in updated.figures.items()}


def _prepare_systems(recipe: RlRecipe, backbone: Backbone) -> None:
    """Let systems choose what is trained; what they need must be there, from a supervised stage."""
    for entry in recipe.mixture:
        system = make_system(entry.system, backbone, recipe.system_settings(entry))
        if system.capabilities.slots and entry.system not in backbone.trained:
            raise CheckpointError(
                f"parent {recipe.parent} was not trained for system {entry.system!r}; name a run of a supervised stage"
            )
        system.prepare(backbone)


def _check_encoder(recipe: RlRecipe, backbone: Backbone) -> None:
    if recipe.memory == END_TO_END and backbone.reads:
        raise ConfigError(
            f"memory = {END_TO_END!r} is not possible: {recipe.parent} reads memories of a separate encoder; use "
            "a parent that encodes and decodes, such as a run of stage sft, or memory = 'frozen'"
        )


def _only_read(backbone: Backbone, recipe: RlRecipe, device: str) -> None:
    """Freeze a model on a device, in the dtype of frozen weights."""
    for module in (backbone.model, backbone.heads):
        module.requires_grad_(False).to(torch.device(device))  # type: ignore[arg-type]
        for weight in filter(torch.is_floating_point, module.parameters()):
            weight.data = weight.data.to(DTYPES[frozen_dtype(recipe)])
    _keep_four_bits(backbone)


def _keep_four_bits(backbone: Backbone) -> None:
    """Keep adapters in training mode, since 4-bit modules may compute differently in eval mode; there is no dropout."""
    backbone.model.train(backbone.base_adapter is not None)


def _keep_encoder(backbone: Backbone, encoder: Backbone, folder: Path, new: bool) -> None:
    """Read memories of the parent's encoder; its files are kept in the run folder, where all checkpoints find them."""
    if new:
        with writing(folder):
            save_encoder(encoder, folder / ENCODER)
    encoder.folder = folder / ENCODER
    backbone.set_encoder(encoder)


def _describe(recipe: RlRecipe, backbone: Backbone) -> None:
    """Record the systems for the model folder, over what the parent's says of them, as after supervised training."""
    for entry in reversed(recipe.mixture):
        system = make_system(entry.system, backbone, recipe.system_settings(entry))
        record = system.record(backbone.trained.get(entry.system, {}))
        backbone.trained[entry.system] = record | {"style": recipe.style}
    backbone.chat_template = recipe.chat_template


def _restore(states: Sequence[dict[str, Any]], scorer: Scorer, seed: int, process: int) -> None:
    """Restore the global random states, which rewards and layers may use; sampling has its own seeds."""
    if not states:
        random.seed(seed)
        torch.manual_seed(seed)
        return
    state = states[process % len(states)]
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    if isinstance(scorer, Judging):
        scorer.spent = state["judged"]


def _checkpoint(run: Run) -> None:
    judged = run.scorer.spent if isinstance(run.scorer, Judging) else 0
    state = {"torch": torch.get_rng_state(), "python": random.getstate(), "judged": judged}
    extra = {"processes": run.processes.gather(state)}
    sharding.save_checkpoint(run.folder, run.backbone, run.progress, run.trainer.optimisers, extra, run.processes)
