"""The supervised training loop: minimises the mean negative log-probability of traces.  All supervised stages use it.

Reinforcement learning has its own loop (`memfold.rl.loop`).  `processes` describes how several processes share work.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memfold.backbone.model import Backbone
from memfold.backbone.score import Scores, logprobs
from memfold.core.errors import CallError
from memfold.training import activation_checkpointing, checkpoint, sharding
from memfold.training.batches import Batch, batch, mixture
from memfold.training.checkpoint import Progress
from memfold.training.encoder import give_encoder, train_encoder
from memfold.training.fqlora import drop_out
from memfold.training.optimisers import Optimisers
from memfold.training.parent import check_architecture, parent_of
from memfold.training.predecessor import PredecessorLoss
from memfold.training.processes import Processes
from memfold.training.recipe import Entry, Recipe, StageRecipe, SupervisedEntry
from memfold.training.run import Opening, open_run, run_lock, trained_parameters
from memfold.training.scratch import make_backbone

Report = Callable[[dict[str, Any]], None]
LANGUAGE = "language"


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
    predecessor_value: Tensor | None = None  # loss of the last batch


def train(recipe: Recipe, folder: Path, resume: bool = False, report: Report | None = None) -> Backbone:
    """Run a stage to its end.  Returns the trained backbone, which is also saved in `folder`/model.

    Raises:
        ConfigError, CheckpointError, DataError: before anything is trained.
        CallError: for a loss or gradient that is not finite; the message names the step.
    """
    with run_lock(folder):
        return _train(prepare(recipe, folder, resume), report)


def _train(run: Run, report: Report | None) -> Backbone:
    """Take the steps that a run still has to take, and save its model."""
    recipe = run.recipe
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
    sharding.save_model(run.backbone, run.folder / "model", run.processes)
    run.processes.close()
    return run.backbone


def prepare(recipe: Recipe, folder: Path, resume: bool = False) -> Run:
    """Create or load the model, the optimisers and the run folder."""
    opening = open_run(recipe, folder, resume)
    start, processes = opening.start, opening.processes
    backbone = _begin(recipe, opening) if start.model is None else opening.load(start.model, opening.device)
    entries = mixture(recipe)
    for entry in entries:
        recipe.system(entry).prepare(backbone)
    if recipe.fqlora is not None:
        opening.adapt(backbone, recipe.fqlora, "" if backbone.base_adapter is not None else parent_of(recipe))
    if recipe.hardware.sharded:
        sharding.check_same_passes(recipe, processes)
    opening.shard(backbone)
    backbone.chat_template = recipe.chat_template
    backbone.trained |= trained_records(recipe, entries)
    predecessor = PredecessorLoss(backbone) if recipe.predecessor_loss else None
    named = trained_parameters(backbone) + train_encoder(backbone)
    if predecessor is not None:
        named += [(f"predecessor.{name}", weight) for name, weight in predecessor.head.named_parameters()]
        if "predecessor" in start.extra:
            predecessor.head.load_state_dict(start.extra["predecessor"])
    optimisers = opening.optimisers(named)
    _check_data(recipe, backbone, entries)
    opening.create_folder()
    _make_ready(backbone, recipe)
    processes.wait()  # otherwise a slow process could take the first checkpoint for that of an earlier run
    return Run(recipe, folder, backbone, optimisers, processes, predecessor, start.progress)


def step(run: Run) -> dict[str, Any]:
    """Make one update from `micro_batches` micro-batches of each process, and return its metrics."""
    recipe, number, processes = run.recipe, run.progress.step, run.processes
    done: list[tuple[int, dict[str, tuple[float, float]]]] = []
    for index in range(recipe.micro_batches):
        position = (number * recipe.micro_batches + index) * processes.count + processes.number
        work = batch(recipe, run.backbone, position)
        if recipe.fqlora is not None:  # dropout, too, must depend on nothing but the batch
            torch.manual_seed(recipe.seed * 1_000_003 + position)
        with processes.autocast(recipe.precision, not recipe.hardware.sharded):
            scores = logprobs(run.backbone, work.system, work.scored, work.entry.folded, _row_positions(recipe))
            beyond = work.system.losses(scores.outputs)
            loss = _loss(run, work, scores, beyond)
        check_finite(f"loss of step {number + 1} ({work.entry.label})", loss)
        scores.backward(loss / (recipe.micro_batches * processes.count))
        done.append((work.tokens, _summary(work, scores, beyond)))
    processes.sum_gradients(run.optimisers.parameters)
    norm = sharding.clip_gradients(run.optimisers.parameters, recipe.clip)
    check_finite(f"gradient of step {number + 1}", norm)
    factor = run.optimisers.step(number)
    tokens, losses = _joined([batch for gathered in processes.gather(done) for batch in gathered])
    run.progress = replace(run.progress, step=number + 1, tokens=run.progress.tokens + tokens)
    if run.predecessor_value is not None:
        losses["predecessor"] = round(float(run.predecessor_value.detach()), 5)
    return {
        "step": number + 1,
        "tokens": run.progress.tokens,
        "rate": factor,
        "norm": round(float(norm), 4),
        "loss": losses,
    }


@torch.no_grad()
def validate(run: Run) -> dict[str, dict[str, float]]:
    """Return loss, token accuracy and the fraction of correct replies on held-out seeds, for each mixture entry."""
    result: dict[str, dict[str, float]] = {}
    recipe = run.recipe
    drop_out(run.backbone.model, False)
    for position, entry in enumerate(mixture(recipe)):
        if position % run.processes.count != run.processes.number and not recipe.hardware.sharded:
            continue
        sums: dict[str, list[float]] = defaultdict(lambda: [0.0] * 5)
        beyond: dict[str, float] = defaultdict(float)
        for number in range(recipe.validation_batches):
            work = batch(recipe, run.backbone, number, f"validation-{position}", entry)
            with run.processes.autocast(recipe.precision, not recipe.hardware.sharded):
                scores = logprobs(run.backbone, work.system, work.scored)
            for name, value in work.system.losses(scores.outputs).items():
                beyond[name] += float(value) / recipe.validation_batches
            for call, values, correct in scores.parts():
                new = (-float(values.sum()), call.count, float(correct.sum()), float(correct.all()), 1)
                sums[call.purpose] = [total + more for total, more in zip(sums[call.purpose], new, strict=True)]
        for purpose, (loss, count, right, whole, replies) in sums.items():
            measured = {"loss": loss / count, "accuracy": right / count, "whole": whole / replies}
            result[f"{position}:{entry.label}/{purpose}"] = {name: round(value, 4) for name, value in measured.items()}
        result |= {f"{position}:{entry.label}/{name}": {"loss": round(value, 4)} for name, value in beyond.items()}
    drop_out(run.backbone.model, True)
    return {name: values for results in run.processes.gather(result) for name, values in results.items()}


def _loss(run: Run, work: Batch, scores: Scores, beyond: Mapping[str, Tensor]) -> Tensor:
    """Return the weighted sum of the mean negative log-probability of each purpose, and of the other losses."""
    by_purpose: dict[str, list[Tensor]] = defaultdict(list)
    for call, values, _ in scores.parts():
        by_purpose[call.purpose].append(values)
    loss = scores.logprobs.new_zeros(())
    for purpose, parts in by_purpose.items():
        weight = work.entry.language if purpose == LANGUAGE and len(by_purpose) > 1 else 1.0
        loss = loss - weight * torch.cat(parts).mean()
    for value in beyond.values():
        loss = loss + value
    if run.predecessor is not None:
        run.predecessor_value = run.predecessor(scores.batches[-1])
        loss = loss + run.recipe.predecessor_loss * run.predecessor_value
    return loss


def check_finite(name: str, value: Tensor) -> None:
    """Raise `CallError` if `value` is not finite; the message calls it `name`."""
    if not bool(torch.isfinite(value)):
        raise CallError(
            "training",
            f"the {name} is {float(value.detach())}; lower the learning rate and start again, with the last checkpoint "
            "as the parent if the run has one",
        )


def _summary(work: Batch, scores: Scores, beyond: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
    """Return summed loss and number of tokens for each call purpose; each loss beyond likelihood counts once."""
    sums = {f"{work.entry.label}/{name}": (float(value.detach()), 1.0) for name, value in beyond.items()}
    for call, values, _ in scores.parts():
        name = f"{work.entry.label}/{call.purpose}"
        loss, count = sums.get(name, (0.0, 0.0))
        sums[name] = (loss - float(values.detach().sum()), count + call.count)
    return sums


def _joined(done: list[tuple[int, dict[str, tuple[float, float]]]]) -> tuple[int, dict[str, float]]:
    """Return tokens and mean losses of several batches."""
    sums: dict[str, tuple[float, float]] = {}
    for _, summary in done:
        for name, (loss, count) in summary.items():
            old = sums.get(name, (0.0, 0.0))
            sums[name] = (old[0] + loss, old[1] + count)
    return sum(tokens for tokens, _ in done), {name: round(loss / count, 5) for name, (loss, count) in sums.items()}


def _begin(recipe: Recipe, opening: Opening) -> Backbone:
    """Return the model that a new run starts from."""
    if recipe.model is not None:
        tokens = dict.fromkeys(token for entry in mixture(recipe) for token in entry.kind.tokens)
        backbone = make_backbone(recipe.model, recipe.seed, opening.device, list(tokens))
    else:
        backbone = opening.load(parent_of(recipe), opening.device)
        check_architecture(recipe, backbone)
    if recipe.encoder is not None:
        give_encoder(backbone, recipe.encoder)
    return backbone


def _row_positions(recipe: Recipe) -> int:
    return recipe.tokens if recipe.packed else 0


def _check_data(recipe: Recipe, backbone: Backbone, entries: Sequence[SupervisedEntry]) -> None:
    """Read what the first validation of entries with files will read, rather than fail there after hours.

    Raises:
        DataError: if their files have no rows to train or to validate on.
    """
    for position, entry in enumerate(entries):
        if entry.files:
            batch(recipe, backbone, 0, f"validation-{position}", entry)


def _make_ready(backbone: Backbone, recipe: Recipe) -> None:
    """Prepare the models for training."""
    for trained in filter(None, (backbone, backbone.encoder)):
        trained.set_attention(recipe.attention)
        if recipe.compile:
            trained.body = torch.compile(trained.model.base_model, dynamic=True)
        trained.model.train()
        if recipe.activation_checkpointing:
            activation_checkpointing.enable(trained)


def trained_records(recipe: StageRecipe, entries: Sequence[Entry]) -> dict[str, dict[str, Any]]:
    """Return what a model folder says of each system of a mixture after this stage, whatever it said before.

    The settings are those of the first entry of a system; others may train it in other ways beside them.
    """
    records: dict[str, dict[str, Any]] = {}
    for entry in reversed(entries):
        records[entry.system] = recipe.system(entry).record(records.get(entry.system, {}))
    return records


def _ended(run: Run) -> bool:
    """Return whether all steps are done, or the validation loss has stopped improving."""
    stalled = bool(run.recipe.patience) and run.progress.waited >= run.recipe.patience
    return stalled or run.progress.step >= run.recipe.steps


def _patience(progress: Progress, validation: dict[str, dict[str, float]]) -> Progress:
    loss = sum(entry["loss"] for entry in validation.values()) / len(validation)
    if loss < progress.best:
        return replace(progress, best=loss, waited=0)
    return replace(progress, waited=progress.waited + 1)


def _checkpoint(run: Run) -> None:
    extra = {"predecessor": run.predecessor.head.state_dict()} if run.predecessor is not None else {}
    sharding.save_checkpoint(run.folder, run.backbone, run.progress, run.optimisers, extra, run.processes)
