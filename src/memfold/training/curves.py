"""The curves of a run as one picture: losses while training, and accuracy on held-out seeds."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SMOOTHING = 25

Series = dict[str, list[tuple[float, float]]]


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics file."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def draw(run: Path) -> Path:
    """Write `curves.png` beside the metrics of a run."""
    losses: Series = defaultdict(list)
    tokens: Series = defaultdict(list)
    whole: Series = defaultdict(list)
    for line in read_metrics(run):
        for name, value in line["loss"].items():
            losses[name].append((line["step"], value))
        for name, value in line.get("validation", {}).items():
            tokens[name].append((line["step"], value["accuracy"]))
            whole[name].append((line["step"], value["whole"]))
    figure, axes = plt.subplots(1, 3, figsize=(16, 4.5), constrained_layout=True)
    _plot(axes[0], {name: _smooth(points) for name, points in losses.items()}, "training loss, nats per token")
    _plot(axes[1], tokens, "held-out: share of right tokens")
    _plot(axes[2], whole, "held-out: share of replies right to the last token")
    for axis in axes[1:]:
        axis.set_ylim(0, 1)
    path = run / "curves.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _plot(axis: Any, series: Series, title: str) -> None:
    for name, points in sorted(series.items()):
        axis.plot([x for x, _ in points], [y for _, y in points], label=name, linewidth=1.2)
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("step")
    axis.grid(alpha=0.3)
    if series:
        axis.legend(fontsize=7)


def _smooth(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """A running mean over the last `SMOOTHING` points."""
    smoothed = []
    for index, (x, _) in enumerate(points):
        recent = [y for _, y in points[max(0, index - SMOOTHING + 1) : index + 1]]
        smoothed.append((x, sum(recent) / len(recent)))
    return smoothed
