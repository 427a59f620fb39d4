"""Collects the groups of a step: rollouts with rewards, without those that carry no signal; also runs validation.

Every process collects its part of a step's groups and validates its part of the entries; failures are counted over all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch

from memfold.backbone.model import Backbone
from memfold.core.errors import CallError
from memfold.core.policy import Policy
from memfold.core.types import Memory, Trace
from memfold.rl.engines.local import LocalEngine
from memfold.rl.questions import Draws, Question, draw
from memfold.rl.recipe import RlRecipe
from memfold.rl.rewards import Reward, Scorer, scored_traces
from memfold.rl.rollout import Rollouts, RolloutSampling, roll_out
from memfold.rl.shaping import answering, dynamic, informative
from memfold.scoring.expansion import expansions
from memfold.training.processes import Processes

SHOWN = 120
TOP_REASONS = 3


@dataclass(frozen=True)
class Group:
    """The trajectories of one question, either all successful or all failed, with rewards before the length penalty.

    A failed trajectory has reward 0 and is not trained on.
    """

    question: Question
    memory: Memory
    traces: tuple[Trace, ...]
    rewards: tuple[Reward, ...]

    @property
    def reward_values(self) -> torch.Tensor:
        """The values of the rewards [g]."""
        return torch.tensor([reward.value for reward in self.rewards])


@dataclass
class Counts:
    """Counts of the rollouts of a step; those of several processes are added."""

    rollouts: int = 0
    groups: int = 0
    equal: int = 0
    dropped: int = 0
    tokens: int = 0
    truncated: int = 0
    answers: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    by_label: dict[str, list[float]] = field(default_factory=dict)

    def __add__(self, other: Counts) -> Counts:
        labels = {**self.by_label}
        for label, values in other.by_label.items():
            labels[label] = [*labels.get(label, []), *values]
        numbers = {name: getattr(self, name) + getattr(other, name) for name in _NUMBERS}
        return Counts(**numbers, reasons=self.reasons + other.reasons, by_label=labels)

    def add(self, group: Group) -> None:
        """Count the trajectories of a group."""
        self.groups += 1
        self.by_label.setdefault(group.question.label, []).extend(reward.value for reward in group.rewards)
        for trace in group.traces:
            self.tokens += trace.cost.generated_tokens
            self.answers += 1
            self.truncated += answering(trace).finish == "length"

    def rewards(self) -> dict[str, float]:
        """Mean reward of each entry of the mixture."""
        return {label: round(fmean(values), 5) for label, values in sorted(self.by_label.items()) if values}

    def figures(self) -> dict[str, float]:
        """Return means over all rollouts of the step, including dropped ones."""
        rewards = [value for values in self.by_label.values() for value in values]
        answers = max(self.answers, 1)
        figures = {
            "reward": fmean(rewards) if rewards else 0.0,
            "length": self.tokens / answers,
            "truncated": self.truncated / answers,
            "equal": self.equal / max(self.groups, 1),
            "dropped": self.dropped / max(self.groups, 1),
            "failed": self.reasons.total() / max(self.rollouts, 1),
        }
        return {name: round(value, 5) for name, value in figures.items()}


_NUMBERS = ("rollouts", "groups", "equal", "dropped", "tokens", "truncated", "answers")


@dataclass(frozen=True)
class Collected:
    """The groups to train on, the failed trajectories by question, and the counts of the step."""

    groups: list[Group]
    failed: list[Group]
    counts: Counts


def collect(
    recipe: RlRecipe, backbone: Backbone, policy: Policy, scorer: Scorer, processes: Processes, step: int
) -> Collected:
    """Return the groups of this process for a step, counted from 0, sampled by `policy`.

    Groups with equal rewards are kept during the warm-up.  Afterwards they are replaced, at most `refills` times, and
    not where every rollout failed.
    """
    options = recipe.options
    wanted = len(range(processes.number, recipe.questions, processes.count))
    drops = dynamic(step, options.dynamic, options.warmup)
    draws = Draws(recipe, backbone, step, processes.number, processes.count)
    sampling = RolloutSampling(recipe.reply_tokens)
    kept: list[Group] = []
    failed: list[Group] = []
    counts = Counts()
    for _ in range(1 + options.refills):
        if len(kept) >= wanted:
            break
        questions = draws.take(wanted - len(kept))
        with processes.autocast(recipe.precision, not recipe.hardware.sharded):
            rollouts = roll_out(
                questions, backbone, policy, sampling, recipe.rollouts, recipe.max_concurrency, recipe.seed, step
            )
        groups, failures = rewarded(rollouts, scorer, counts)
        failed += failures
        for group in groups:
            counts.add(group)
            equal = not informative(group.reward_values, [reward.turns for reward in group.rewards], options.credit)
            counts.equal += equal
            counts.dropped += drops and equal
            if not (drops and equal):
                kept.append(group)
        if not drops or counts.reasons.total() == counts.rollouts:
            break
    return Collected(kept, failed, counts)


def rewarded(
    rollouts: Sequence[Rollouts], scorer: Scorer, counts: Counts, minimum: int = 2
) -> tuple[list[Group], list[Group]]:
    """Return groups of at least `minimum` successful trajectories, and groups of failed ones; counts the failures."""
    samples = [sampled.question.sample for sampled in rollouts for _ in sampled.traces]
    scored = iter(scored_traces(scorer, samples, [trace for sampled in rollouts for trace in sampled.traces]))
    groups, failed = [], []
    for sampled in rollouts:
        good: list[tuple[Trace, Reward]] = []
        bad: list[tuple[Trace, Reward]] = []
        for _ in sampled.traces:
            trace, reward = next(scored)
            (good if trace.failure is None else bad).append((trace, reward))
        counts.rollouts += len(sampled.traces)
        counts.reasons.update(_reason(str(trace.failure)) for trace, _ in bad)
        if len(good) >= minimum:
            groups.append(_group(sampled, good))
        if bad:
            failed.append(_group(sampled, bad))
    return groups, failed


def _group(rollouts: Rollouts, scored: Sequence[tuple[Trace, Reward]]) -> Group:
    traces, rewards = zip(*scored, strict=True)
    return Group(rollouts.question, rollouts.memory, traces, rewards)


def validate(recipe: RlRecipe, backbone: Backbone, scorer: Scorer, processes: Processes) -> dict[str, dict[str, float]]:
    """Return reward, length and fraction of expanding replies of greedy decoding on held-out questions, by entry.

    Entries are divided among the processes.  The local engine is used, whatever engine samples the rollouts.

    Raises:
        CallError: in every process, when too many of all replies failed.
    """
    policy = LocalEngine(recipe, backbone, processes.count).policy()
    result: dict[str, dict[str, float]] = {}
    total = Counts()
    for position, entry in enumerate(recipe.mixture):
        if position % processes.count != processes.number:
            continue
        questions: list[Question] = []
        number = 0
        while len(questions) < recipe.validation_questions:
            questions += draw(recipe, backbone, number, f"validation-{position}", entry)
            number += 1
        del questions[recipe.validation_questions :]
        with processes.autocast(recipe.precision, not recipe.hardware.sharded):
            greedy = RolloutSampling(recipe.reply_tokens, 0.0)
            rollouts = roll_out(questions, backbone, policy, greedy, 1, recipe.max_concurrency)
        counts = Counts()
        groups, _ = rewarded(rollouts, scorer, counts, minimum=1)
        for group in groups:
            counts.add(group)
        figures = counts.figures()
        measured = {name: figures[name] for name in ("reward", "length", "truncated")}
        measured["expanding"] = round(fmean(map(_expands, groups)), 5) if groups else 0.0
        result[f"{position}:{entry.label}"] = measured
        total += counts
    gathered = processes.gather((result, total))
    check_failures(sum((counts for _, counts in gathered), Counts()), recipe.failures, None)
    return {name: values for results, _ in gathered for name, values in results.items()}


def _expands(group: Group) -> float:
    """Return the fraction of replies that reconstruct a part of the document."""
    document = group.question.document.text or ""
    replies = [trace.answer.reply if trace.answer else "" for trace in group.traces]
    return fmean(bool(expansions(reply, document)) for reply in replies)


def _reason(error: str) -> str:
    line = " ".join(error.split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]} ..."


def check_failures(counts: Counts, limit: float, step: int | None) -> None:
    """Raise `CallError` with the most frequent reasons if more than the fraction `limit` of the rollouts failed.

    `step` counts from 0; None stands for validation.
    """
    failed = counts.reasons.total()
    if failed <= limit * counts.rollouts:
        return
    where = "validation" if step is None else f"step {step + 1}"
    reasons = "; ".join(f"{count} x {reason}" for reason, count in counts.reasons.most_common(TOP_REASONS))
    raise CallError(
        "training",
        f"{failed} of {counts.rollouts} rollouts of {where} failed, more than failures = {limit} in the recipe "
        f"allows: {reasons}; earlier checkpoints are intact",
    )
