"""A system as an evaluation names it: `pooled`, `pooled:4` (its ratio), `pooled:16/bare` (its style), `closed-book`.

The settings that a model was trained with come first, what the name says over them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from memfold.backbone.model import Backbone
from memfold.core.errors import ConfigError
from memfold.core.prompt import Style
from memfold.core.registry import SYSTEMS, load
from memfold.core.system import MemorySystem

CLOSED_BOOK = "closed-book"
CONTENDERS = SYSTEMS | {CLOSED_BOOK: "memfold.evaluation.closed_book:ClosedBook"}
DEFAULT_RATIO = 16
_LABEL = re.compile(r"(?P<name>[^:/]+)(?::(?P<ratio>\d+))?(?:/(?P<style>[^/]+))?")


@dataclass(frozen=True)
class Contender:
    """A system under the label that tables and records give it."""

    label: str
    name: str
    system: MemorySystem
    trained: bool = True  # at this ratio, or with none to train


def make_contender(label: str, backbone: Backbone) -> Contender:
    """The system that a label names, for this backbone.

    Raises:
        ConfigError: for a label of another form, an unknown system or style, or a ratio for a system without one.
    """
    parts = _parse(label)
    name = parts["name"]
    kind = load("system", name, CONTENDERS)
    trained = backbone.trained.get(name, {})
    settings: dict[str, Any] = {key: value for key, value in trained.items() if key != "ratios"}
    if parts["ratio"] is not None:
        settings["ratio"] = int(parts["ratio"])
    elif "ratios" in trained:
        settings["ratio"] = DEFAULT_RATIO if DEFAULT_RATIO in trained["ratios"] else max(trained["ratios"])
    if parts["style"] is not None:
        settings["style"] = parts["style"]
    known = "ratios" not in trained or settings["ratio"] in trained["ratios"]
    try:
        return Contender(label, name, kind(frame=backbone.frame, **settings), known)
    except TypeError:
        if parts["ratio"] is None:
            raise
        raise ConfigError(f"system {label!r}: {name!r} has no ratio; leave out ':{parts['ratio']}'") from None


def check_names(labels: Sequence[str]) -> None:
    """Raise a `ConfigError` for a label that cannot be read or names no system: before a model is loaded."""
    for label in labels:
        load("system", _parse(label)["name"], CONTENDERS)


def with_ratios(labels: Sequence[str], ratios: Sequence[int], backbone: Backbone) -> list[str]:
    """The labels, each system that was trained with ratios once for each of these; a ratio in a label stays.

    Raises:
        ConfigError: when there are ratios and no system takes them.
    """
    if not ratios:
        return list(dict.fromkeys(labels))
    spread: list[str] = []
    for label in labels:
        parts = _parse(label)
        takes = parts["ratio"] is None and "ratios" in backbone.trained.get(parts["name"], {})
        tail = f"/{parts['style']}" if parts["style"] else ""
        spread += [f"{parts['name']}:{ratio}{tail}" for ratio in ratios] if takes else [label]
    if not any(":" in label for label in spread):
        raise ConfigError(f"ratios {', '.join(map(str, ratios))} fit none of the systems {', '.join(labels)}")
    return list(dict.fromkeys(spread))


def baseline(labels: Sequence[str]) -> str | None:
    """The label that the others are compared with: the first `full`, with or without a style."""
    return next((label for label in labels if _parse(label)["name"] == "full"), None)


def _parse(label: str) -> dict[str, Any]:
    match = _LABEL.fullmatch(label)
    if match is None:
        raise ConfigError(f"system {label!r} cannot be read; write NAME, NAME:RATIO or NAME:RATIO/STYLE")
    parts = match.groupdict()
    if parts["style"] not in (None, *get_args(Style)):
        raise ConfigError(f"system {label!r} asks for style {parts['style']!r}; allowed: {', '.join(get_args(Style))}")
    return parts
