"""A system as an evaluation names it: NAME[:RATIO][/STYLE][/SETTING=VALUE]..., or `closed-book`.

`pooled`, `pooled:4`, `pooled:16/bare`, `pooled/cite=attention`, `retrieval/top=8`.  The settings that a model was
trained with come first, what the label says over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from memfold.core.errors import ConfigError, unknown
from memfold.core.model import Model
from memfold.core.prompt import STYLES
from memfold.core.registry import CLOSED_BOOK, REFERENCE, SYSTEMS, AnySystem, SystemClass, system_class, system_for
from memfold.evaluation.closed_book import ClosedBook


@dataclass(frozen=True)
class Candidate:
    """A system under the label that tables and records give it; `trained` tells whether the model knows its ratio."""

    label: str
    name: str
    system: AnySystem
    trained: bool = True


@dataclass(frozen=True)
class _Label:
    """What a label says."""

    name: str
    ratio: int | None = None
    tail: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> SystemClass:
        """The class of the system that it names.

        Raises:
            ConfigError: for an unknown name.
        """
        if self.name == CLOSED_BOOK:
            return ClosedBook
        if self.name not in SYSTEMS:
            raise unknown("system", self.name, (*SYSTEMS, CLOSED_BOOK))
        return system_class(self.name)


def make_candidate(label: str, model: Model) -> Candidate:
    """The system that a label names, for this model.

    Raises:
        ConfigError: for a label of another form, an unknown system, or settings that the system does not have.
    """
    wanted = _parse(label)
    system = system_for(wanted.kind, model, wanted.settings)
    if wanted.ratio is not None:
        system = system.at_ratio(wanted.ratio)
    return Candidate(label, wanted.name, system, system.trained_at(model.trained.get(wanted.name, {})))


def check_labels(labels: Sequence[str]) -> None:
    """Raise a `ConfigError` for a label that cannot be read or names no system: before a model is loaded."""
    for label in labels:
        _ = _parse(label).kind


def readable(labels: Sequence[str], model: Model) -> list[str]:
    """Those of the labels whose system this model can read: all where its weights are here, else those of text."""
    return [label for label in labels if model.has_weights or not _parse(label).kind().capabilities.slots]


def with_ratios(labels: Sequence[str], ratios: Sequence[int], model: Model) -> list[str]:
    """The labels, each system that was trained with ratios once for each of these; a ratio in a label stays.

    Raises:
        ConfigError: when there are ratios and no system takes them.
    """
    spread: list[str] = []
    for label in labels:
        wanted = _parse(label)
        takes = wanted.ratio is None and wanted.kind.trained_ratios(model.trained.get(wanted.name, {}))
        spread += [f"{wanted.name}:{ratio}{wanted.tail}" for ratio in ratios] if takes and ratios else [label]
    if ratios and spread == list(labels):
        raise ConfigError(f"ratios {', '.join(map(str, ratios))} fit none of the systems {', '.join(labels)}")
    return list(dict.fromkeys(spread))


def reference_label(labels: Sequence[str]) -> str | None:
    """The label that the others are compared with: the first of the reference system, whatever its settings."""
    return next((label for label in labels if _parse(label).name == REFERENCE), None)


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
