"""Draws the training curves of a run, supervised or reinforcement learning, from its metrics as one figure."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from PIL import Image

from memfold.core.outputs import whole_file

SMOOTHING = 25
PALETTE = 128  # colours of the picture

COLUMNS = 3
LENGTH = "reply length in tokens"
TITLE_WIDTH = 56  # characters of a line: more would reach into the next panel
# panel title -> the reinforcement learning figures in it
WATCHED = {
    LENGTH: ("length",),
    "fractions: groups with equal rewards, dropped groups, truncated replies, failed rollouts": (
        "equal",
        "dropped",
        "truncated",
        "failed",
    ),
    "fraction of tokens clipped": ("clipped",),
    "KL, nats per token: sampler to trainer, policy to parent": ("logprob_gap_kl", "kl"),
    "log-probability gap between sampler and trainer, nats per token": ("logprob_gap",),
    "entropy, nats per token": ("entropy",),
}

Series = dict[str, list[tuple[float, float]]]


@dataclass(frozen=True)
class Panel:
    """One plot: series of points by name.  A `fraction` is drawn from 0 to 1."""

    title: str
    series: Series
    fraction: bool = False


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics file."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def draw(run: Path) -> Path:
    """Write `curves.png` beside the metrics of a run."""
    lines = read_metrics(run)
    panels = _sampled(lines) if any("figures" in line for line in lines) else _supervised(lines)
    columns = min(len(panels), COLUMNS)
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(16, 4.5 * rows), constrained_layout=True, squeeze=False)
    for empty in grid.flat[len(panels) :]:
        empty.remove()
    for axis, panel in zip(grid.flat, panels, strict=False):
        _plot(axis, panel.series, panel.title)
        if panel.fraction:
            axis.set_ylim(0, 1)
    path = run / "curves.png"
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    plt.close(figure)
    few = Image.open(drawn).convert("RGB").quantize(PALETTE, dither=Image.Dither.NONE)  # a third of the bytes
    with whole_file(path) as partial:
        few.save(partial, format="png", optimize=True)
    return path


def _supervised(lines: Sequence[dict[str, Any]]) -> list[Panel]:
    """Return training losses, and accuracy on held-out seeds."""
    losses: Series = defaultdict(list)
    tokens: Series = defaultdict(list)
    whole: Series = defaultdict(list)
    for line in lines:
        for name, value in line["loss"].items():
            losses[name].append((line["step"], value))
        for name, value in line.get("validation", {}).items():
            if "accuracy" in value:  # a loss beyond likelihood has none
                tokens[name].append((line["step"], value["accuracy"]))
                whole[name].append((line["step"], value["whole"]))
    return [
        Panel("training loss, nats per token", _smoothed(losses)),
        Panel("held-out: token accuracy", tokens, fraction=True),
        Panel("held-out: fraction of entirely correct replies", whole, fraction=True),
    ]


def _sampled(lines: Sequence[dict[str, Any]]) -> list[Panel]:
    """Return rewards, lengths, groups without a signal, clipping and KL of reinforcement learning."""
    rewards: Series = defaultdict(list)
    held_out: Series = defaultdict(list)
    expanding: Series = defaultdict(list)
    lengths: Series = defaultdict(list)
    figures: Series = defaultdict(list)
    for line in lines:
        for name, value in line["rewards"].items():
            rewards[name].append((line["step"], value))
        for name, value in line["figures"].items():
            figures[name].append((line["step"], value))
        for name, value in line.get("validation", {}).items():
            held_out[name].append((line["step"], value["reward"]))
            expanding[name].append((line["step"], value["expanding"]))
            lengths[f"held out {name}"].append((line["step"], value["length"]))
    panels = {title: {name: figures[name] for name in names if name in figures} for title, names in WATCHED.items()}
    lengths |= _smoothed(panels.pop(LENGTH))
    return [
        Panel("reward of sampled replies", _smoothed(rewards)),
        Panel("reward of greedy replies, held out", held_out),
        Panel(LENGTH, lengths),
        Panel("greedy replies, held out, that reconstruct a part of the document", expanding, fraction=True),
        *(Panel(title, _smoothed(series)) for title, series in panels.items() if series),
    ]


def _plot(axis: Any, series: Series, title: str) -> None:
    for name, points in sorted(series.items()):
        marker = "o" if len(points) == 1 else ""  # a line of one point cannot be seen
        axis.plot([x for x, _ in points], [y for _, y in points], label=name, linewidth=1.2, marker=marker)
    axis.set_title(fill(title, TITLE_WIDTH), fontsize=10)
    axis.set_xlabel("step")
    axis.grid(alpha=0.3)
    if series:
        axis.legend(fontsize=7)


def _smoothed(series: Series) -> Series:
    return {name: _smooth(points) for name, points in series.items()}


def _smooth(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return a running mean over the last `SMOOTHING` points."""
    smoothed = []
    for index, (x, _) in enumerate(points):
        recent = [y for _, y in points[max(0, index - SMOOTHING + 1) : index + 1]]
        smoothed.append((x, sum(recent) / len(recent)))
    return smoothed
