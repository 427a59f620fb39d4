"""Reads the label of a system in an evaluation: NAME[:RATIO][/STYLE][/SETTING=VALUE]..., or `closed-book`.

Examples: `pooled`, `pooled:4`, `pooled:16/bare`, `pooled/cite=attention`, `retrieval/top=8`.  A label overrides the
settings that the model was trained with.  It cannot have settings that only training uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from memfold.core.errors import ConfigError, unknown
from memfold.core.model import Model
from memfold.core.prompt import STYLES
from memfold.core.registry import CLOSED_BOOK, REFERENCE, SYSTEMS, AnySystem, SystemClass, system_class, system_for
from memfold.core.settings import setting_value
from memfold.evaluation.closed_book import ClosedBook


@dataclass(frozen=True)
class Candidate:
    """A system and its label in tables and records; `trained` says whether the model was trained at its ratio."""

    label: str
    name: str
    system: AnySystem
    trained: bool = True


@dataclass(frozen=True)
class _Label:
    """The parts of a label; `tail` is its text after name and ratio."""

    name: str
    ratio: int | None = None
    tail: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> SystemClass:
        """Return the class of the system that it names.

        Raises:
            ConfigError: for an unknown name.
        """
        if self.name == CLOSED_BOOK:
            return ClosedBook
        if self.name not in SYSTEMS:
            raise unknown("system", self.name, (*SYSTEMS, CLOSED_BOOK))
        return system_class(self.name)

    def check(self) -> None:
        """Raise a `ConfigError` for an unknown system, or for a setting that cannot be chosen in an evaluation."""
        fold, read, _ = self.kind.groups
        allowed = [setting.name for group in (fold, read) for setting in fields(group)]
        for name in self.settings:
            if name not in allowed:
                raise unknown(f"{self.name} setting", name, allowed)


def make_candidate(label: str, model: Model, max_tokens: int | None = None) -> Candidate:
    """Create the system that a label names, for this model; `max_tokens` limits its replies, unless the label does.

    Raises:
        ConfigError: for a label of another form, an unknown system, or settings that the system does not have.
    """
    wanted = _parse(label)
    wanted.check()
    limit = {} if max_tokens is None else {"max_tokens": max_tokens}
    system = system_for(wanted.kind, model, limit | wanted.settings)
    if wanted.ratio is not None:
        system = _at_ratio(system, wanted.ratio, model)
    return Candidate(label, wanted.name, system, system.trained_at(model.trained.get(wanted.name, {})))


def check_labels(labels: Sequence[str]) -> None:
    """Raise a `ConfigError` for a label that cannot be read, or that has an unknown name, before a model is loaded."""
    for label in labels:
        _parse(label).check()


def readable(labels: Sequence[str], model: Model) -> list[str]:
    """Return the labels whose system this model can read: all with local weights, else those with memories of text."""
    return [label for label in labels if model.has_weights or not _parse(label).kind().capabilities.slots]


def with_ratios(labels: Sequence[str], ratios: Sequence[int], model: Model) -> list[str]:
    """Return the labels, with one label per ratio for each trained system whose label has no ratio.

    Raises:
        ConfigError: if there are ratios and no system takes them.
    """
    spread: list[str] = []
    for label in labels:
        wanted = _parse(label)
        takes = wanted.ratio is None and wanted.kind.trained_ratios(model.trained.get(wanted.name, {}))
        spread += [f"{wanted.name}:{ratio}{wanted.tail}" for ratio in ratios] if takes and ratios else [label]
    if ratios and spread == list(labels):
        raise ConfigError(
            f"--ratio {', '.join(map(str, ratios))} applies to none of the systems {', '.join(labels)}; leave it out"
        )
    return list(dict.fromkeys(spread))


def reference_label(labels: Sequence[str]) -> str | None:
    """Return the label that the others are compared with: the first one of the reference system."""
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
            raise unknown(f"style in system {label!r}:", key, STYLES)
        setting = key if equals else "style"
        if setting in settings:
            raise ConfigError(f"system {label!r} has two values for {setting}; give one")
        settings[setting] = setting_value(value) if equals else key
    return _Label(name, int(ratio) if colon else None, label[len(head) :], settings)


def _at_ratio(system: AnySystem, ratio: int, model: Model) -> AnySystem:
    """Return the system at a ratio, which need not be one that the model was trained at.

    Raises:
        ConfigError: for a ratio that the settings do not allow; the message has the trained ratios.
    """
    try:
        return system.at_ratio(ratio)
    except ConfigError:
        trained = system.trained_ratios(model.trained.get(system.name, {}))
        if not trained or ratio in trained:
            raise
        allowed = ", ".join(map(str, trained))
        raise ConfigError(
            f"ratio {ratio} is not possible with the settings of model {model.name!r}, which was trained at ratios "
            f"{allowed}; use one of these"
        ) from None
