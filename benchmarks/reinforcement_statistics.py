"""Statistics of models before and after reinforcement learning, worked out from the outcome of every sample.

A `Comparison` is one result file.  Differences and ratios are paired by case; a case that only one side has is left
out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memfold.core.config import build
from memfold.core.errors import ConfigError, DataError
from memfold.core.prompt import STYLES
from memfold.evaluation.table import Cell, Row, Table, mean, paired_ratio, proportion
from memfold.training.curves import read_metrics

PARENT, TRAINED = "sft", "rl"
BASELINES = ("full", "retrieval")
FREE = "free"
STYLED = {f"{PARENT} {style}": style for style in STYLES if style != FREE}  # label -> reply style it is told to use
DIFFERENCES = {f"{TRAINED} - {label}": label for label in (PARENT, *STYLED)}
SHARES = (f"{PARENT} / full", f"{TRAINED} / full")
REWARD_STEPS = 20  # at both ends of a run

Outcomes = dict[str, float]  # case -> 1 for right and 0 for wrong, or a score from 0 to 1


@dataclass(frozen=True)
class Comparison:
    """The content of one result file.

    `models` are the model folders by label, `trained` the training summaries of those after reinforcement learning.
    `outcomes` are by row, label and case.  `recalls` are by kind of question, label and case: 1 for a reply that
    recalls first.  `failed` counts the replies that ended in an error, which count as wrong.  `expansion` is the table
    of implicit expansion.
    """

    name: str
    system: str
    models: dict[str, str]
    trained: dict[str, dict[str, float]]
    outcomes: dict[str, dict[str, Outcomes]]
    recalls: dict[str, dict[str, Outcomes]]
    failed: dict[str, int]
    expansion: dict[str, Any]
    commit: str | None
    hardware: dict[str, Any]


def read_comparisons(folder: Path) -> list[Comparison]:
    """Read all result files of a folder.

    Raises:
        DataError: for a file that is not a comparison.
    """
    comparisons = []
    for path in sorted(folder.glob("*.json")):
        try:
            comparisons.append(build(Comparison, json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, ConfigError) as error:
            raise DataError(f"{path} is not a comparison: {error}; run it again") from None
    return comparisons


def training_summary(folder: Path) -> dict[str, float]:
    """The steps of a run, the mean seconds of a step, and the mean reward of its first and last steps.

    Raises:
        ConfigError: for a folder that is not a run of reinforcement learning.
    """
    metrics = read_metrics(folder) if (folder / "metrics.jsonl").exists() else []
    sampled = [line for line in metrics if line.get("figures")]  # the line before the first step has no figures
    if not sampled:
        raise ConfigError(f"{folder} is not a run of reinforcement learning; name the folder with its metrics.jsonl")
    rewards = [line["figures"]["reward"] for line in sampled]
    seconds = [sum(line["seconds"].values()) for line in sampled]
    return {
        "steps": metrics[-1]["step"],
        "seconds": _average(seconds),
        "first": _average(rewards[:REWARD_STEPS]),
        "last": _average(rewards[-REWARD_STEPS:]),
    }


def accuracy_table(comparison: Comparison) -> Table:
    """The accuracy or score of every model; several trained models are shown as their mean and separately."""
    labels = _trained_labels(comparison)
    single_labels = labels if len(labels) > 1 else []
    other_labels = (*BASELINES, *STYLED, PARENT)
    rows = []
    for name, by_label in comparison.outcomes.items():
        values = [by_label.get(label, {}) for label in other_labels]
        values += [_mean_over_runs(comparison, name), *(by_label[label] for label in single_labels)]
        rows.append(Row((name,), tuple(map(_mean_cell, values))))
    columns = (*other_labels, TRAINED, *(f"{label} alone" for label in single_labels))
    return Table(f"{comparison.name}: {comparison.system}", ("questions",), columns, tuple(rows))


def gains_table(comparison: Comparison) -> Table:
    """The differences between the trained models and the supervised model, and the shares of `full`."""
    rows = []
    for name, by_label in comparison.outcomes.items():
        trained, full = _mean_over_runs(comparison, name), by_label.get("full", {})
        cells = [_difference_cell(trained, by_label.get(label, {})) for label in DIFFERENCES.values()]
        cells += [_ratio_cell(by_label[PARENT], full), _ratio_cell(trained, full)]
        rows.append(Row((name,), tuple(cells)))
    return Table(f"{comparison.name}: gains", ("questions",), (*DIFFERENCES, *SHARES), tuple(rows))


def side_by_side_table(comparisons: Sequence[Comparison]) -> Table:
    """The trained models of all comparisons, and how they differ from those of the comparison with the most seeds.

    Rows that only this comparison has are left out.
    """
    reference = max(comparisons, key=lambda comparison: len(comparison.trained))
    others = [comparison for comparison in comparisons if comparison is not reference]
    rows = []
    for name in reference.outcomes:
        if not any(name in other.outcomes for other in others):
            continue
        base = _mean_over_runs(reference, name)
        values = [_mean_over_runs(other, name) if name in other.outcomes else {} for other in others]
        cells = [_mean_cell(base), *map(_mean_cell, values), *(_difference_cell(value, base) for value in values)]
        rows.append(Row((name,), tuple(cells)))
    names = [other.name for other in others]
    columns = (reference.name, *names, *(f"{name} - {reference.name}" for name in names))
    return Table("After reinforcement learning, side by side", ("questions",), columns, tuple(rows))


def recall_table(comparison: Comparison) -> Table:
    """The share of replies that recall before they answer, by kind of question."""
    labels = (PARENT, *_trained_labels(comparison))
    rows = [
        Row((kind,), tuple(_mean_cell(by_label[label]) for label in labels))
        for kind, by_label in comparison.recalls.items()
    ]
    return Table(f"{comparison.name}: replies that recall first, level 3, in", ("kind",), labels, tuple(rows))


def expansion_table(comparison: Comparison) -> Table:
    """The stored table of implicit expansion, with the name of the comparison in its title and without its note."""
    stored = comparison.expansion
    rows = tuple(Row(tuple(row["names"]), tuple(Cell(**cell) for cell in row["cells"])) for row in stored["rows"])
    return Table(f"{comparison.name}: implicit expansion", tuple(stored["names"]), tuple(stored["columns"]), rows)


def _trained_labels(comparison: Comparison) -> list[str]:
    return [label for label in comparison.models if label != PARENT]


def _mean_over_runs(comparison: Comparison, row: str) -> Outcomes:
    """The mean outcome of the trained models for each case."""
    runs = [comparison.outcomes[row][label] for label in _trained_labels(comparison)]
    return {case: sum(run[case] for run in runs) / len(runs) for case in runs[0]}


def _mean_cell(outcomes: Outcomes) -> Cell:
    """The mean, with Wilson's interval if all outcomes are right or wrong."""
    values = list(outcomes.values())
    if all(value in (0, 1) for value in values):
        return proportion([bool(value) for value in values])
    return mean(values, share=True)


def _difference_cell(outcomes: Outcomes, others: Outcomes) -> Cell:
    return mean([value - others[case] for case, value in outcomes.items() if case in others], share=True)


def _ratio_cell(outcomes: Outcomes, full: Outcomes) -> Cell:
    cases = [case for case in outcomes if case in full]
    return paired_ratio([outcomes[case] for case in cases], [full[case] for case in cases])  # type: ignore[misc]


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values)
