"""A benchmark as a picture over document length: the ratios it is about, or for systems side by side their seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from memfold.evaluation.plots import PANEL_INCHES, load_pyplot, save

Lines = dict[str, list[float]]


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the picture of what `memfold bench` printed."""
    pyplot = load_pyplot()
    drawn, axes = pyplot.subplots(figsize=PANEL_INCHES)
    title, lines = PICTURES[result["bench"]](result["lengths"])
    lengths = [entry["tokens"] for entry in result["lengths"]]
    for name, values in lines.items():
        axes.plot(lengths, values, label=name, marker="o", markersize=4, linestyle="--" if "counted" in name else "-")
    seconds = "seconds" in title
    axes.set(title=title, xlabel="document tokens", xscale="log")
    axes.set(**({"yscale": "log"} if seconds else {"ylim": (0, None)}))
    axes.set_xticks(lengths, [short(length) for length in lengths])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    drawn.tight_layout()
    save(drawn, path)
    pyplot.close(drawn)


def short(tokens: int) -> str:
    """8,199 as 8K and 1,048,587 as 1M, as ticks that stand close together need it."""
    for unit, size in (("M", 1 << 20), ("K", 1 << 10)):
        if tokens >= size:
            return f"{round(tokens / size)}{unit}"
    return str(tokens)


def _fold(entries: list[dict[str, Any]]) -> tuple[str, Lines]:
    return "fold, share of the forward pass's speed", {"fold": [entry["share_of_forward"] for entry in entries]}


def _first_token(entries: list[dict[str, Any]]) -> tuple[str, Lines]:
    lines: Lines = {}
    for wrapper in entries[0]["wrappers"]:
        for label, key in ((wrapper, "measured"), (f"{wrapper}, counted", "predicted")):
            lines[label] = [entry["wrappers"][wrapper][key] for entry in entries]
    default = next(iter(entries[0]["wrappers"]))
    lines[f"{default}, with folding"] = [entry["with_folding"]["measured"] for entry in entries]
    return "first token, times faster than the full text", lines


def _systems(entries: list[dict[str, Any]]) -> tuple[str, Lines]:
    labels = entries[0]["systems"]
    lines = {label: [_first(entry["systems"][label]) for entry in entries] for label in labels}
    return "seconds to the first token", lines


def _rollout(entries: list[dict[str, Any]]) -> tuple[str, Lines]:
    lines = {"sampling": [entry["share_of_decoding"] for entry in entries]}
    return "sampled replies, share of the rate of decoding alone", lines


def _first(found: dict[str, Any]) -> float:
    """The usual time to the first token; not a number where there is none."""
    return float(median(found.get("first_token_seconds", [math.nan])))


PICTURES: Mapping[str, Callable[[list[dict[str, Any]]], tuple[str, Lines]]] = {
    "fold": _fold,
    "first-token": _first_token,
    "systems": _systems,
    "rollout": _rollout,
}
