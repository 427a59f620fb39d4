"""The loop of reinforcement learning: draw questions, sample replies, reward them, update; for any system.

One step is a pure function of the weights, the optimisers and its number.  Left out: how the pieces are computed
(`rollout`, `rewards`, `advantages`, `losses`), and how several processes talk (`training.processes`).
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from memfold.backbone.folder import load_backbone, save_encoder
from memfold.backbone.model import DTYPES, Backbone
from memfold.backbone.resolve import model_folder
from memfold.core.errors import CallError, ConfigError, unknown
from memfold.core.registry import setting_names, trained_ratios
from memfold.rl.collect import Group, check_failures, collect, validate
from memfold.rl.engine import Engine, open_engine
from memfold.rl.questions import draw
from memfold.rl.recipe import END_TO_END, RlRecipe
from memfold.rl.rewards import JUDGE, Judging, Rules, Scorer, find_reward
from memfold.rl.trace_file import write_groups
from memfold.rl.update import Trainer, Updated
from memfold.scoring.judge import open_judge
from memfold.tasks.datasets.corpus import check_files
from memfold.training import checkpoint, sharding
from memfold.training.batches import system_of
from memfold.training.checkpoint import Progress
from memfold.training.fqlora import adapt
from memfold.training.optimisers import Optimisers
from memfold.training.parent import check_architecture, frozen_dtype
from memfold.training.processes import Processes

Report = Callable[[dict[str, Any]], None]
RECIPE = RlRecipe
ENCODER, TRACES = "encoder", "traces"
UNSAID = ("chat_template", "ratio", "gap", "draw", "cite", "unfold")  # of a system: told elsewhere, or of one answer


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
    groups: list[Group] = field(default_factory=list)  # of the last step, then what failed in it

    @property
    def backbone(self) -> Backbone:
        """What is trained."""
        return self.trainer.backbone


def train(recipe: RlRecipe, folder: Path, resume: bool = False, report: Report | None = None) -> Backbone:
    """Run the stage to its end; returns the trained backbone, which is also in `folder`/model.

    Raises:
        ConfigError, CheckpointError: before anything is trained.
        CallError: for a loss or gradient that is not a number, a trainer that has drifted from its sampler, or too many
            failed rollouts; the last checkpoint stays.
    """
    run = prepare(recipe, folder, resume)
    if not run.progress.step:
        _tell(run, {"step": 0, "tokens": 0, "figures": {}, "rewards": {}, "validation": _validated(run)}, report)
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
        _tell(run, metrics, report)
        if done % recipe.checkpoint_every == 0 or last:
            _checkpoint(run)
    sharding.save_model(run.backbone, folder / "model", run.processes)
    run.processes.part()
    return run.backbone


def prepare(recipe: RlRecipe, folder: Path, resume: bool = False) -> Run:
    """Load the model, its encoder, the reference and the optimisers, open reward and engine, make the run folder."""
    processes = Processes()
    _check_settings(recipe)
    resolved = json.loads(json.dumps(asdict(recipe)))
    check_files([file for entry in recipe.mixture for file in entry.files])
    begun = checkpoint.start(folder, resolved, resume)
    parent = begun.model or model_folder(str(recipe.parent))
    # what is sharded goes to its device in parts
    backbone = _load(recipe, parent, "cpu" if recipe.hardware.sharded else processes.device)
    check_architecture(recipe, backbone)
    _check_encoder(recipe, backbone)
    for number, entry in enumerate(recipe.mixture):
        draw(recipe, backbone, number, "check", entry)
    scorer = make_scorer(recipe, processes.count)
    _adapt(recipe, backbone, parent)
    if recipe.hardware.sharded:
        sharding.shard(backbone, processes)
    named = [(name, parameter) for name, parameter in backbone.parameters() if parameter.requires_grad]
    engine = open_engine(recipe, backbone, processes.count)
    if processes.first:
        checkpoint.settle(folder, resolved, begun)
    if recipe.memory != END_TO_END:
        encoder = backbone.encoder or _load(recipe, parent, processes.device)
        _only_read(encoder, recipe, processes.device)
        _keep_encoder(backbone, encoder, folder, new=processes.first and begun.model is None)
    _describe(recipe, backbone)
    optimisers = Optimisers(named, recipe.groups, recipe.freeze, recipe.schedule, recipe.steps)
    if begun.optimisers:
        optimisers.load_state_dict(sharding.split_states(begun.optimisers, optimisers))
    _restore(begun.extra.get("processes", ()), scorer, recipe.seed, processes.number)
    backbone.model.set_attn_implementation(recipe.attention)
    reference = None
    if recipe.options.beta:
        reference = _load(recipe, model_folder(str(recipe.parent)), processes.device)
        reference.encoder = None  # it scores replies to memories that are there
        _only_read(reference, recipe, processes.device)
    processes.wait()  # before the first one writes a checkpoint that another would take for an earlier run's
    trainer = Trainer(recipe, backbone, optimisers, processes, reference)
    return Run(recipe, folder, trainer, engine, scorer, processes, begun.progress)


def make_scorer(recipe: RlRecipe, processes: int = 1) -> Scorer:
    """What rewards the traces of a run; each of several processes has its share of a judge's budget."""
    if recipe.reward == JUDGE:
        return Judging(open_judge(recipe.judge.model), recipe.judge.budget // processes)
    return Rules(find_reward(recipe.reward), turns=recipe.options.credit == "turn")


def step(run: Run) -> dict[str, Any]:
    """One step: rollouts with refills, then the updates; returns its metrics."""
    recipe, number, processes = run.recipe, run.progress.step, run.processes
    started = time.perf_counter()
    run.groups = []
    with sharding.gathered(run.backbone):
        found = collect(recipe, run.backbone, run.engine.policy(), run.scorer, processes, number)
    run.groups = found.groups + found.failed
    counts = processes.gather(found.counts)
    total = sum(counts[1:], counts[0])
    check_failures(total, recipe.failures, number)
    sampled = time.perf_counter()
    updated = run.trainer.step(found.groups, number)
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
    """Of what is trained as it stands; before the first step it is what the run has to improve on."""
    with sharding.gathered(run.backbone):
        return validate(run.recipe, run.backbone, run.scorer, run.processes)


def _tell(run: Run, metrics: dict[str, Any], report: Report | None) -> None:
    """Write the line of a step and report it, once for all processes."""
    if run.processes.first:
        checkpoint.write_metrics(run.folder, metrics)
        if report is not None:
            report(metrics)


def _write_traces(run: Run, number: int) -> None:
    """Those that a step, from 1, learned from or stopped at, and those that failed."""
    if run.processes.first and run.groups:
        write_groups(run.folder / TRACES / f"step-{number:06d}.jsonl", run.groups)


def _figures(updated: Updated) -> dict[str, float]:
    return {name: round(value, 6) for name, value in updated.figures.items()}


def _load(recipe: RlRecipe, where: Path, device: str) -> Backbone:
    """With an fqlora adapters stay beside their base, in its 4 bits where it has them."""
    return load_backbone(where, device, frozen_dtype(recipe), merged=recipe.fqlora is None)


def _adapt(recipe: RlRecipe, backbone: Backbone, parent: Path) -> None:
    """Let train what the recipe's fqlora says; everything where there is none."""
    if recipe.fqlora is None:
        return
    torch.manual_seed(recipe.seed)  # of new LoRA matrices, the same in every process
    adapt(backbone, recipe.fqlora, str(parent.resolve()))
    _keep_four_bits(backbone)


def _check_encoder(recipe: RlRecipe, backbone: Backbone) -> None:
    if recipe.memory == END_TO_END and backbone.reads:
        raise ConfigError(
            f"memory = {END_TO_END!r} is not possible: {recipe.parent} reads memories of a separate encoder; give "
            "a parent whose weights do both, such as a run of stage sft, or memory = 'frozen'"
        )


def _only_read(backbone: Backbone, recipe: RlRecipe, device: str) -> None:
    """A model that is not trained: on the device, its numbers no wider than frozen ones are (they may have trained)."""
    for module in (backbone.model, backbone.heads):
        module.requires_grad_(False).to(torch.device(device))  # type: ignore[arg-type]
        for weight in filter(torch.is_floating_point, module.parameters()):
            weight.data = weight.data.to(DTYPES[frozen_dtype(recipe)])
    _keep_four_bits(backbone)


def _keep_four_bits(backbone: Backbone) -> None:
    """Outside of training 4-bit modules may compute otherwise; there is no dropout."""
    backbone.model.train(backbone.adapter is not None)


def _keep_encoder(backbone: Backbone, encoder: Backbone, folder: Path, new: bool) -> None:
    """Read memories of the parent's encoder, whose files stay in the run folder, where every checkpoint finds them."""
    if new:
        save_encoder(encoder, folder / ENCODER)
    encoder.folder = folder / ENCODER
    backbone.set_encoder(encoder)


def _check_settings(recipe: RlRecipe) -> None:
    """Refuse a setting that no system of the mixture has, and those that are keys of their own."""
    known = {name for entry in recipe.mixture for name in setting_names(entry.system)} - {"chat_template", "style"}
    for name in recipe.settings:
        if name not in known:
            raise unknown("key", f"settings.{name}", [f"settings.{key}" for key in sorted(known)])


def _describe(recipe: RlRecipe, backbone: Backbone) -> None:
    """What the model folder will say of the systems: what the recipe says over what the parent was trained with."""
    for entry in recipe.mixture:
        ratios = {*trained_ratios(entry.system, backbone), *entry.ratios}
        system = system_of(entry, recipe, backbone, {"style": recipe.style})
        said = {name: value for name, value in system.settings.items() if name not in UNSAID}
        has_ratio = "ratio" in system.settings
        backbone.trained[entry.system] = said | ({"ratios": sorted(ratios)} if has_ratio else {})
    backbone.chat_template = recipe.chat_template


def _restore(states: Sequence[dict[str, Any]], scorer: Scorer, seed: int, process: int) -> None:
    """Random states for rewards and layers that draw from the global ones; sampling has seeds of its own."""
    if not states:
        random.seed(seed)
        torch.manual_seed(seed)
        return
    own = states[process % len(states)]
    torch.set_rng_state(own["torch"])
    random.setstate(own["python"])
    if isinstance(scorer, Judging):
        scorer.spent = own["judged"]


def _checkpoint(run: Run) -> None:
    judged = run.scorer.spent if isinstance(run.scorer, Judging) else 0
    own = {"torch": torch.get_rng_state(), "python": random.getstate(), "judged": judged}
    extra = {"processes": run.processes.gather(own)}
    sharding.save_checkpoint(run.folder, run.backbone, run.progress, run.trainer.optimisers, extra, run.processes)
