"""The supervised loop: traces in, log-probabilities out, their negative mean down.  All stages run through it.

Reinforcement learning has its own loop; how several processes share the work is in `processes`.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memfold.backbone.folder import load_backbone
from memfold.backbone.model import Backbone
from memfold.backbone.scoring import Scores, logprobs
from memfold.core.config import build
from memfold.core.errors import CallError
from memfold.systems.pooled.head import add_head
from memfold.systems.pooled.settings import PooledSettings
from memfold.tasks.datasets.corpus import check_files
from memfold.training import checkpoint, recomputation, sharding
from memfold.training.batches import Batch, batch, mixture
from memfold.training.checkpoint import Progress
from memfold.training.encoder import give_encoder, train_encoder
from memfold.training.fqlora import adapt, drop_out
from memfold.training.optimisers import Optimisers
from memfold.training.parent import frozen_dtype, load_parent, parent_of
from memfold.training.predecessor import PredecessorLoss
from memfold.training.processes import Processes
from memfold.training.recipe import Entry, Recipe, Share, StageRecipe
from memfold.training.scratch import make_backbone

Report = Callable[[dict[str, Any]], None]
LANGUAGE = "language"
RECIPE = Recipe


@dataclass
class Run:
    """Everything that a step needs."""

    recipe: Recipe
    folder: Path
    backbone: Backbone
    optimisers: Optimisers
    processes: Processes
    predecessor: PredecessorLoss | None
    progress: Progress
    predecessor_value: Tensor | None = None  # of the last batch


def train(recipe: Recipe, folder: Path, resume: bool = False, report: Report | None = None) -> Backbone:
    """Run a stage to its end; returns the trained backbone, which is also in `folder`/model.

    Raises:
        ConfigError, CheckpointError: before anything is trained.
        CallError: for a loss or a gradient that is not a number, naming the step.
    """
    run = prepare(recipe, folder, resume)
    started, seen = time.perf_counter(), run.progress.tokens
    while not _ended(run):
        metrics = step(run)
        passed = time.perf_counter() - started
        metrics["tokens_per_second"] = round((run.progress.tokens - seen) / passed, 1)
        done = run.progress.step
        if done % recipe.validate_every == 0 or done == recipe.steps:
            metrics["validation"] = validate(run)
            run.progress = _patience(run.progress, metrics["validation"])
        if run.processes.first:
            checkpoint.write_metrics(run.folder, metrics)
            if report is not None:
                report(metrics)
        if done % recipe.checkpoint_every == 0 or _ended(run):
            _checkpoint(run)
    sharding.save_model(run.backbone, folder / "model", run.processes)
    run.processes.part()
    return run.backbone


def prepare(recipe: Recipe, folder: Path, resume: bool = False) -> Run:
    """Make or load the model, the optimisers and the run folder."""
    processes = Processes()
    resolved = json.loads(json.dumps(asdict(recipe)))
    check_files([file for share in recipe.mixture for file in share.files])
    begun = checkpoint.start(folder, resolved, resume)
    extra = begun.extra
    # what is sharded goes to its device in parts
    device = "cpu" if recipe.hardware.sharded else processes.device
    if begun.model is not None:
        backbone = load_backbone(begun.model, device, frozen_dtype(recipe), merged=recipe.fqlora is None)
    else:
        backbone = _begin(recipe, device)
    if processes.first:
        checkpoint.settle(folder, resolved, begun)
    add_head(backbone, build(PooledSettings, recipe.settings))
    if recipe.fqlora is not None:
        torch.manual_seed(recipe.seed)  # of new LoRA matrices, the same in every process
        adapt(backbone, recipe.fqlora, "" if backbone.adapter is not None else parent_of(recipe))
    if recipe.hardware.sharded:
        sharding.check_same_passes(recipe, processes)
        sharding.shard(backbone, processes)
    backbone.chat_template = recipe.chat_template
    backbone.trained["pooled"] = trained_settings(recipe, mixture(recipe))
    predecessor = PredecessorLoss(backbone) if recipe.predecessor_loss else None
    named = [(name, parameter) for name, parameter in backbone.parameters() if parameter.requires_grad]
    named += train_encoder(backbone)
    if predecessor is not None:
        named += [(f"predecessor.{name}", weight) for name, weight in predecessor.head.named_parameters()]
        if "predecessor" in extra:
            predecessor.head.load_state_dict(extra["predecessor"])
    optimisers = Optimisers(named, recipe.groups, recipe.freeze, recipe.schedule, recipe.steps)
    if begun.optimisers:
        optimisers.load_state_dict(sharding.split_states(begun.optimisers, optimisers))
    _make_ready(backbone, recipe)
    processes.wait()  # before the first one writes a checkpoint that another would take for an earlier run's
    return Run(recipe, folder, backbone, optimisers, processes, predecessor, begun.progress)


def step(run: Run) -> dict[str, Any]:
    """One update from `micro_batches` batches of each process; returns its metrics."""
    recipe, number, processes = run.recipe, run.progress.step, run.processes
    done: list[tuple[int, dict[str, tuple[float, float]]]] = []
    for index in range(recipe.micro_batches):
        position = (number * recipe.micro_batches + index) * processes.count + processes.number
        work = batch(recipe, run.backbone, position)
        if recipe.fqlora is not None:  # its dropout is a function of the batch, as all else is
            torch.manual_seed(recipe.seed * 1_000_003 + position)
        with processes.autocast(recipe.precision, not recipe.hardware.sharded):
            scores = logprobs(run.backbone, work.system, work.scored, work.share.folded, _row_places(recipe))
            loss = _loss(run, work.share, scores)
        check_finite(f"loss of step {number + 1} ({work.share.label})", loss)
        scores.backward(loss / (recipe.micro_batches * processes.count))
        done.append((work.tokens, _summary(work, scores)))
    processes.sum_gradients(run.optimisers.parameters)
    norm = sharding.clip_gradients(run.optimisers.parameters, recipe.clip)
    check_finite(f"gradient of step {number + 1}", norm)
    factor = run.optimisers.step(number)
    tokens, losses = _joined([batch for found in processes.gather(done) for batch in found])
    run.progress = replace(run.progress, step=number + 1, tokens=run.progress.tokens + tokens)
    if run.predecessor_value is not None:
        losses["predecessor"] = round(float(run.predecessor_value.detach()), 5)
    return {"step": number + 1, "tokens": run.progress.tokens, "rate": factor, "norm": round(float(norm), 4),
            "loss": losses}  # fmt: skip


@torch.no_grad()
def validate(run: Run) -> dict[str, dict[str, float]]:
    """Loss, token accuracy and share of wholly right replies on held-out seeds, for each mixture entry."""
    result: dict[str, dict[str, float]] = {}
    recipe = run.recipe
    drop_out(run.backbone.model, False)
    for position, share in enumerate(mixture(recipe)):
        if position % run.processes.count != run.processes.number and not recipe.hardware.sharded:
            continue
        sums: dict[str, list[float]] = defaultdict(lambda: [0.0] * 5)
        for number in range(recipe.validation_batches):
            work = batch(recipe, run.backbone, number, f"validation-{position}", share)
            with run.processes.autocast(recipe.precision, not recipe.hardware.sharded):
                scores = logprobs(run.backbone, work.system, work.scored)
            for stretch, values, correct in scores.parts():
                entry = sums[stretch.purpose]
                new = (-float(values.sum()), stretch.count, float(correct.sum()), float(correct.all()), 1)
                sums[stretch.purpose] = [old + more for old, more in zip(entry, new, strict=True)]
        for purpose, (loss, count, right, whole, replies) in sums.items():
            measured = {"loss": loss / count, "accuracy": right / count, "whole": whole / replies}
            result[f"{position}:{share.label}/{purpose}"] = {name: round(value, 4) for name, value in measured.items()}
    drop_out(run.backbone.model, True)
    return {name: values for found in run.processes.gather(result) for name, values in found.items()}


def _loss(run: Run, share: Share, scores: Scores) -> Tensor:
    """Mean negative log-probability for each purpose of call, weighted, plus the auxiliary loss."""
    by_purpose: dict[str, list[Tensor]] = defaultdict(list)
    for stretch, values, _ in scores.parts():
        by_purpose[stretch.purpose].append(values)
    loss = scores.logprobs.new_zeros(())
    for purpose, found in by_purpose.items():
        weight = share.language if purpose == LANGUAGE and len(by_purpose) > 1 else 1.0
        loss = loss - weight * torch.cat(found).mean()
    if run.predecessor is not None:
        run.predecessor_value = run.predecessor(scores.packed)
        loss = loss + run.recipe.predecessor_loss * run.predecessor_value
    return loss


def check_finite(what: str, value: Tensor) -> None:
    """Raise a `CallError` that names `what` is no number."""
    if not bool(torch.isfinite(value)):
        raise CallError(
            "training",
            f"the {what} is {float(value.detach())}; the last checkpoint is whole: name it as the parent of a recipe "
            "with a lower learning rate",
        )


def _summary(work: Batch, scores: Scores) -> dict[str, tuple[float, float]]:
    """Summed loss and tokens for each purpose."""
    sums: dict[str, tuple[float, float]] = {}
    for stretch, values, _ in scores.parts():
        name = f"{work.share.label}/{stretch.purpose}"
        loss, count = sums.get(name, (0.0, 0.0))
        sums[name] = (loss - float(values.detach().sum()), count + stretch.count)
    return sums


def _joined(done: list[tuple[int, dict[str, tuple[float, float]]]]) -> tuple[int, dict[str, float]]:
    """Tokens and mean losses of several batches."""
    sums: dict[str, tuple[float, float]] = {}
    for _, summary in done:
        for name, (loss, count) in summary.items():
            old = sums.get(name, (0.0, 0.0))
            sums[name] = (old[0] + loss, old[1] + count)
    return sum(tokens for tokens, _ in done), {name: round(loss / count, 5) for name, (loss, count) in sums.items()}


def _begin(recipe: Recipe, device: str) -> Backbone:
    if recipe.model is not None:
        backbone = make_backbone(recipe.model, recipe.seed, device)
    else:
        backbone = load_parent(recipe, device)
    if recipe.encoder is not None:
        give_encoder(backbone, recipe.encoder)
    return backbone


def _row_places(recipe: Recipe) -> int:
    return recipe.tokens if recipe.packed else 0


def _make_ready(backbone: Backbone, recipe: Recipe) -> None:
    """Set the models up for training."""
    for one in filter(None, (backbone, backbone.encoder)):
        one.model.set_attn_implementation(recipe.attention)
        if recipe.compile:
            one.body = torch.compile(one.model.base_model, dynamic=True)
        one.model.train()
        if recipe.checkpointing:
            recomputation.begin(one)


def trained_settings(recipe: StageRecipe, entries: Sequence[Entry]) -> dict[str, Any]:
    """What a model folder says of pooled memory: its settings, and the ratios of the mixture in place of one."""
    ratios = {ratio for entry in entries if entry.system == "pooled" for ratio in entry.ratios}
    for ratio in ratios:  # an impossible one is told before anything is trained
        build(PooledSettings, recipe.settings | {"ratio": ratio})
    settings = asdict(build(PooledSettings, recipe.settings))
    del settings["ratio"], settings["gap"], settings["draw"]
    return settings | {"ratios": sorted(ratios)}


def _ended(run: Run) -> bool:
    """Whether all steps are done, or the validation loss has not fallen for too long."""
    impatient = bool(run.recipe.patience) and run.progress.waited >= run.recipe.patience
    return impatient or run.progress.step >= run.recipe.steps


def _patience(progress: Progress, validation: dict[str, dict[str, float]]) -> Progress:
    loss = sum(entry["loss"] for entry in validation.values()) / len(validation)
    if loss < progress.best:
        return replace(progress, best=loss, waited=0)
    return replace(progress, waited=progress.waited + 1)


def _checkpoint(run: Run) -> None:
    extra = {"predecessor": run.predecessor.head.state_dict()} if run.predecessor is not None else {}
    sharding.save_checkpoint(run.folder, run.backbone, run.progress, run.optimisers, extra, run.processes)
