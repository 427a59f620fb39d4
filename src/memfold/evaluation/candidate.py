"""A system as an evaluation names it: NAME[:RATIO][/STYLE][/SETTING=VALUE]..., or `closed-book`.

`pooled`, `pooled:4`, `pooled:16/bare`, `pooled/cite=attention`, `retrieval/top=8`.  The settings that a model was
trained with come first, what the label says over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from memfold.backbone.model import Backbone
from memfold.core.errors import ConfigError
from memfold.core.prompt import STYLES
from memfold.core.registry import SYSTEMS, load, make_system, trained_ratios
from memfold.core.system import MemorySystem

CLOSED_BOOK = "closed-book"
CANDIDATES = SYSTEMS | {CLOSED_BOOK: "memfold.evaluation.closed_book:ClosedBook"}
BASELINE = "full"


@dataclass(frozen=True)
class Candidate:
    """A system under the label that tables and records give it; `trained` tells whether the model knows its ratio."""

    label: str
    name: str
    system: MemorySystem
    trained: bool = True


@dataclass(frozen=True)
class _Label:
    """What a label says."""

    name: str
    ratio: int | None = None
    tail: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


def make_candidate(label: str, backbone: Backbone) -> Candidate:
    """The system that a label names, for this backbone.

    Raises:
        ConfigError: for a label of another form, an unknown system, or settings that the system does not have.
    """
    wanted = _parse(label)
    settings = wanted.settings if wanted.ratio is None else wanted.settings | {"ratio": wanted.ratio}
    ratios = trained_ratios(wanted.name, backbone)
    system = make_system(wanted.name, backbone, settings, CANDIDATES)
    return Candidate(label, wanted.name, system, not ratios or system.settings["ratio"] in ratios)


def check_labels(labels: Sequence[str]) -> None:
    """Raise a `ConfigError` for a label that cannot be read or names no system: before a model is loaded."""
    for label in labels:
        load("system", _parse(label).name, CANDIDATES)


def readable(labels: Sequence[str], backbone: Backbone) -> list[str]:
    """Those of the labels whose system this model can read: all where its weights are here, else those of text."""
    return [label for label in labels if backbone.reads_slots or "ratio" not in _settings(_parse(label).name)]


def with_ratios(labels: Sequence[str], ratios: Sequence[int], backbone: Backbone) -> list[str]:
    """The labels, each system that was trained with ratios once for each of these; a ratio in a label stays.

    Raises:
        ConfigError: when there are ratios and no system takes them.
    """
    spread: list[str] = []
    for label in labels:
        wanted = _parse(label)
        takes = wanted.ratio is None and "ratios" in backbone.trained.get(wanted.name, {})
        spread += [f"{wanted.name}:{ratio}{wanted.tail}" for ratio in ratios] if takes and ratios else [label]
    if ratios and spread == list(labels):
        raise ConfigError(f"ratios {', '.join(map(str, ratios))} fit none of the systems {', '.join(labels)}")
    return list(dict.fromkeys(spread))


def baseline(labels: Sequence[str]) -> str | None:
    """The label that the others are compared with: the first `full`, whatever its settings."""
    return next((label for label in labels if _parse(label).name == BASELINE), None)


def _settings(name: str) -> dict[str, Any]:
    settings: dict[str, Any] = load("system", name, CANDIDATES)().settings
    return settings


def _parse(label: str) -> _Label:
    head, *options = label.split("/")
    name, colon, ratio = head.partition(":")
    if not name or (colon and not ratio.isdecimal()):
        raise ConfigError(f"system {label!r} cannot be read; write NAME[:RATIO][/STYLE][/SETTING=VALUE]")
    settings: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals and key not in STYLES:
            raise ConfigError(f"system {label!r} asks for style {key!r}; allowed: {', '.join(STYLES)}")
        settings[key if equals else "style"] = (int(value) if value.isdecimal() else value) if equals else key
    return _Label(name, int(ratio) if colon else None, label[len(head) :], settings)
