"""The table of memory systems: their names, their classes, and the roles that shared code assigns to some of them.

Adding a system takes one line in `SYSTEMS`.  Outside the folders of the systems, only this module names systems; shared
code refers to them by role, such as the default or the reference of comparisons.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from typing import Any

from memfold.core.errors import ConfigError, unknown
from memfold.core.model import Model, ModelRecord
from memfold.core.system import MemorySystem

AnySystem = MemorySystem[Any, Any, Any]
SystemClass = type[AnySystem]

SYSTEMS = {
    "pooled": "memfold.systems.pooled.system:Pooled",
    "full": "memfold.systems.full.system:Full",
    "retrieval": "memfold.systems.retrieval.system:Retrieval",
    "kvbank": "memfold.systems.kvbank.system:Kvbank",
    "recurrent": "memfold.systems.recurrent.system:Recurrent",
}
# layouts of model folders that others have published, with the loader of the system that reads them
LAYOUTS = {
    "lychee": "memfold.systems.kvbank.lychee:LAYOUT",
    "lclm": "memfold.systems.pooled.lclm:LAYOUT",
}
# models that others have published -> the system that they were trained for
PUBLISHED = {
    "latent-context/0.6b-4b-LCLM-4x": "pooled",
    "latent-context/0.6b-4b-LCLM-8x": "pooled",
    "latent-context/0.6b-4b-LCLM-16x": "pooled",
    "lerverson/LycheeMemory-7B": "kvbank",
    "BytedTsinghua-SIA/RL-MemoryAgent-7B": "recurrent",
    "BytedTsinghua-SIA/RL-MemoryAgent-14B": "recurrent",
}

DEFAULT = "pooled"  # used if no system is given, by a model that was trained for it
TEXT_DEFAULT = "retrieval"  # used if no system is given, by a model that was trained for none: any text, any window
REFERENCE = "full"  # the reference of comparisons: the same model reading the full text
BASELINES = ("retrieval",)  # compared in addition to the default and the reference
CLOSED_BOOK = "closed-book"  # not a system: the model answers without any memory, for evaluation only
COMPARED = (REFERENCE, DEFAULT, *BASELINES, CLOSED_BOOK)  # default candidates of a suite
TIMED = (REFERENCE, *BASELINES, DEFAULT, "kvbank", "recurrent")  # default systems of `memfold bench systems`
LONG = ("retrieval", "recurrent", "kvbank")  # default candidates of suites whose documents are longer than any window
PLAIN_TEXT = REFERENCE  # the system that renders samples of plain language modelling


def load(kind: str, name: str, table: Mapping[str, str]) -> Any:
    """Import the object that `table` lists under `name`, as `module:attribute`.

    Raises:
        ConfigError: for a name that is not in the table; the message names the nearest one.
    """
    if name not in table:
        raise unknown(kind, name, table)
    module, attribute = table[name].split(":")
    return getattr(importlib.import_module(module), attribute)


@cache
def system_class(name: str) -> SystemClass:
    """Return the class of a memory system by name.

    Raises:
        ConfigError: for a name that is not in the table, or an entry that is not a memory system of that name.
    """
    entry = load("system", name, SYSTEMS)
    if not (isinstance(entry, type) and issubclass(entry, MemorySystem) and entry.name == name):
        raise ConfigError(
            f"the table entry of system {name!r}, {SYSTEMS[name]}, is not possible; allowed: a MemorySystem class with "
            f"name = {name!r}"
        )
    return entry


def default_for(trained: Mapping[str, Any]) -> str:
    """Return the system that is used if none is given: the first that the model was trained for, or one of text."""
    return next((name for name in SYSTEMS if name in trained), TEXT_DEFAULT)


def published_for(model: str) -> str | None:
    """Return the system that published weights were trained for; None for any other model.

    `model` is their id, or the path or name of a folder that is called as the weights are.
    """
    name = model.rpartition("/")[2]
    return next((system for known, system in PUBLISHED.items() if name == known.rpartition("/")[2]), None)


def has_slots(name: str) -> bool:
    """Return whether the memories of a system hold slots, which bind them to an encoder; otherwise they are text.

    Raises:
        ConfigError: as `system_class`.
    """
    return system_class(name)().capabilities.slots


def text_systems() -> tuple[str, ...]:
    """Return the names of the systems whose memory is text, which any model can read, including an endpoint."""
    return tuple(name for name in SYSTEMS if not has_slots(name))


def encoder_of(system: AnySystem, model: Model) -> str:
    """Return the fingerprint that a memory carries: that of the encoder, or "" for text, which belongs to no model."""
    return model.readable[0] if system.capabilities.slots else ""


def check_keeps_text(system: AnySystem, keep_text: bool) -> None:
    """Refuse to store a memory without its text if it holds nothing else.

    Raises:
        ConfigError: with the name of the system.
    """
    if not keep_text and not system.stores_slots:
        here = " with these settings" if system.capabilities.slots else ""
        raise ConfigError(
            f"a memory of system {system.name!r}{here} is the text itself, so the text must be stored; leave --no-text "
            "(keep_text=False) out"
        )


def check_slot_dtype(name: str, dtype: str | None) -> None:
    """Refuse a data type of slots for a system whose memories have none.

    Raises:
        ConfigError: with the name of the system.
    """
    if dtype is not None and not has_slots(name):
        raise ConfigError(f"dtype {dtype!r} has no effect: system {name!r} stores no slots; leave --dtype (dtype=) out")


def make_system(name: str, model: ModelRecord, settings: Mapping[str, Any] | None = None) -> AnySystem:
    """Create a system with settings that fit the model, or that it was trained with, overridden by `settings`.

    Raises:
        ConfigError: for an unknown system or setting, a value out of range, or a system with slots for a model that
            reads text only.
    """
    return system_for(system_class(name), model, settings)


def system_for(kind: SystemClass, model: ModelRecord, settings: Mapping[str, Any] | None = None) -> AnySystem:
    """Create a system from its class; see `make_system`."""
    trained = kind.trained_settings(model.trained.get(kind.name, {}))
    system = kind.of(kind.fitting(model) | model.answering | trained | dict(settings or {}))
    if system.capabilities.slots and not model.has_weights:
        raise ConfigError(
            f"system {kind.name!r} is not possible with model {model.name!r}: an endpoint reads text, not slots; use a "
            f"--system whose memory is text ({', '.join(text_systems())}), or a --model with local weights"
        )
    return system
