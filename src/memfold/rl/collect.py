"""The groups of a step: rollouts with rewards, those without a signal dropped and refilled; and the held-out ones.

Every process fills its own share of a step's groups and validates its own entries; what failed is judged over all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch

from memfold.backbone.model import Backbone
from memfold.core.errors import CallError
from memfold.core.system import Policy
from memfold.core.types import Memory, Trace
from memfold.rl.engines.local import LocalEngine
from memfold.rl.questions import Draws, Question, draw
from memfold.rl.recipe import RlRecipe
from memfold.rl.rewards import Scorer, Worth, scored_traces
from memfold.rl.rollout import Rollouts, Sampling, roll_out
from memfold.rl.shaping import dynamic, informative
from memfold.scoring.expansion import expansions
from memfold.training.processes import Processes

SHOWN = 120
TOP_REASONS = 3


@dataclass(frozen=True)
class Group:
    """The trajectories of one question, those that did not fail or those that did, with their rewards before length is
    punished (of a failure: 0, which nothing is learned from)."""

    question: Question
    memory: Memory
    traces: tuple[Trace, ...]
    worths: tuple[Worth, ...]

    @property
    def rewards(self) -> torch.Tensor:
        """[g]"""
        return torch.tensor([worth.value for worth in self.worths])


@dataclass
class Counts:
    """What happened to the rollouts of a step; those of several processes add up."""

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
        self.by_label.setdefault(group.question.label, []).extend(worth.value for worth in group.worths)
        for trace in group.traces:
            self.tokens += trace.cost.generated_tokens
            self.answers += 1
            self.truncated += trace.steps[-1].reply.finish == "length"

    def rewards(self) -> dict[str, float]:
        """Mean reward of each entry of the mixture."""
        return {label: round(fmean(values), 5) for label, values in sorted(self.by_label.items()) if values}

    def figures(self) -> dict[str, float]:
        """Means over all rollouts of the step, dropped ones included."""
        every = [value for values in self.by_label.values() for value in values]
        answers = max(self.answers, 1)
        figures = {
            "reward": fmean(every) if every else 0.0,
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
    """The groups to learn from, the trajectories that failed by question, and what happened on the way."""

    groups: list[Group]
    failed: list[Group]
    counts: Counts


def collect(recipe: RlRecipe, backbone: Backbone, policy: Policy, scorer: Scorer, processes: Processes, step: int
            ) -> Collected:  # fmt: skip
    """The groups of this process for a step, counted from 0, sampled by `policy`.

    Groups of equal reward stay during the warm-up; afterwards others are drawn for them, at most `refills` times, but
    none where every rollout failed.
    """
    options = recipe.options
    wanted = len(range(processes.number, recipe.questions, processes.count))
    drops = dynamic(step, options.dynamic, options.warmup)
    draws = Draws(recipe, backbone, step, processes.number, processes.count)
    sampling = Sampling(recipe.reply_tokens)
    kept: list[Group] = []
    failed: list[Group] = []
    counts = Counts()
    for _ in range(1 + options.refills):
        if len(kept) >= wanted:
            break
        questions = draws.take(wanted - len(kept))
        with processes.autocast(recipe.precision, not recipe.hardware.sharded):
            rolled = roll_out(questions, backbone, policy, sampling, recipe.rollouts, recipe.places, recipe.seed, step)
        groups, broken = rewarded(rolled, scorer, counts)
        failed += broken
        for group in groups:
            counts.add(group)
            equal = not informative(group.rewards, [worth.turns for worth in group.worths], options.credit)
            counts.equal += equal
            counts.dropped += drops and equal
            if not (drops and equal):
                kept.append(group)
        if not drops or counts.reasons.total() == counts.rollouts:
            break
    return Collected(kept, failed, counts)


def rewarded(
    rolled: Sequence[Rollouts], scorer: Scorer, counts: Counts, fewest: int = 2
) -> tuple[list[Group], list[Group]]:
    """Rollouts with rewards as groups of `fewest` or more; beside them the failed ones, which are counted."""
    samples = [one.question.sample for one in rolled for _ in one.traces]
    scored = iter(scored_traces(scorer, samples, [trace for one in rolled for trace in one.traces]))
    groups, failed = [], []
    for one in rolled:
        good: list[tuple[Trace, Worth]] = []
        bad: list[tuple[Trace, Worth]] = []
        for _ in one.traces:
            trace, worth = next(scored)
            (good if trace.error is None else bad).append((trace, worth))
        counts.rollouts += len(one.traces)
        counts.reasons.update(_reason(str(trace.error)) for trace, _ in bad)
        if len(good) >= fewest:
            groups.append(_group(one, good))
        if bad:
            failed.append(_group(one, bad))
    return groups, failed


def _group(one: Rollouts, own: Sequence[tuple[Trace, Worth]]) -> Group:
    traces, worths = zip(*own, strict=True)
    return Group(one.question, one.memory, traces, worths)


def validate(recipe: RlRecipe, backbone: Backbone, scorer: Scorer, processes: Processes) -> dict[str, dict[str, float]]:
    """Reward, length and share of expanding ones of greedy replies to held-out questions, for each mixture entry.

    Entries are shared by the processes; replies are made in them, whatever engine samples the others.

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
            rolled = roll_out(questions, backbone, policy, Sampling(recipe.reply_tokens, 0.0), 1, recipe.places)
        counts = Counts()
        groups, _ = rewarded(rolled, scorer, counts, fewest=1)
        for group in groups:
            counts.add(group)
        figures = counts.figures()
        measured = {name: figures[name] for name in ("reward", "length", "truncated")}
        measured["expanding"] = round(fmean(map(_expands, groups)), 5) if groups else 0.0
        result[f"{position}:{entry.label}"] = measured
        total += counts
    found = processes.gather((result, total))
    check_failures(sum((counts for _, counts in found), Counts()), recipe.failures, None)
    return {name: values for own, _ in found for name, values in own.items()}


def _expands(group: Group) -> float:
    """The share of replies that write a part of the document out again."""
    document = group.question.document.text or ""
    replies = [trace.answer.reply if trace.answer else "" for trace in group.traces]
    return fmean(bool(expansions(reply, document)) for reply in replies)


def _reason(error: str) -> str:
    line = " ".join(error.split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]} ..."


def check_failures(counts: Counts, most: float, step: int | None) -> None:
    """Raise a `CallError` with the reasons counted where more than the share `most` of the rollouts of a step, from 0,
    failed; of a validation without one."""
    failed = counts.reasons.total()
    if failed <= most * counts.rollouts:
        return
    where = "validation" if step is None else f"step {step + 1}"
    reasons = "; ".join(f"{count} x {reason}" for reason, count in counts.reasons.most_common(TOP_REASONS))
    raise CallError(
        "training",
        f"{failed} of {counts.rollouts} rollouts of {where} failed, more than the share {most} that the recipe's "
        f"failures allows: {reasons}; the last checkpoint is whole",
    )
