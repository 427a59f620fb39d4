"""The table of memory systems: their names, where each is, and the roles that some of them play for shared code.

Adding a system is one line in `SYSTEMS`.  This is the only place outside the systems' folders that names one: what
shared code needs (the default, the reference of comparisons) is a role in this table.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from typing import Any

from memfold.core.errors import ConfigError, unknown
from memfold.core.model import Model
from memfold.core.system import MemorySystem

AnySystem = MemorySystem[Any, Any, Any]
SystemClass = type[AnySystem]

SYSTEMS = {
    "pooled": "memfold.systems.pooled.system:Pooled",
    "full": "memfold.systems.full.system:Full",
    "retrieval": "memfold.systems.retrieval.system:Retrieval",
    "recurrent": "memfold.systems.recurrent.system:Recurrent",
}

DEFAULT = "pooled"  # what folds where no system is named
REFERENCE = "full"  # what the others are compared with: the same model reading the text itself
BASELINES = ("retrieval",)  # compared beside the default and the reference
CLOSED_BOOK = "closed-book"  # no system: the model asked without any memory, for evaluation only
COMPARED = (REFERENCE, DEFAULT, *BASELINES, CLOSED_BOOK)  # by a suite that names no others
TIMED = (REFERENCE, *BASELINES, DEFAULT, "recurrent")  # by a benchmark of all systems
PLAIN_TEXT = REFERENCE  # what plain language modelling is trained through


def load(kind: str, name: str, table: Mapping[str, str]) -> Any:
    """The object that `table` names `module:attribute` under `name`.

    Raises:
        ConfigError: for a name outside the table, with the nearest one.
    """
    if name not in table:
        raise unknown(kind, name, table)
    module, attribute = table[name].split(":")
    return getattr(importlib.import_module(module), attribute)


@cache
def system_class(name: str) -> SystemClass:
    """The class of a memory system by its name, checked to be one.

    Raises:
        ConfigError: for a name outside the table, or an entry that is no memory system of that name.
    """
    found = load("system", name, SYSTEMS)
    if not (isinstance(found, type) and issubclass(found, MemorySystem) and found.name == name):
        raise ConfigError(f"the table's entry for system {name!r}, {SYSTEMS[name]}, is no memory system of that name")
    return found


def text_systems() -> tuple[str, ...]:
    """The systems whose memory is text: any model reads it, one behind an address included."""
    return tuple(name for name in SYSTEMS if not system_class(name)().capabilities.slots)


def make_system(name: str, model: Model, settings: Mapping[str, Any] | None = None) -> AnySystem:
    """A system with what the model was trained with for it, and `settings` over that.

    Raises:
        ConfigError: for an unknown system, a setting that it does not have, an impossible value, or a system of slots
            for a model that reads text only.
    """
    return system_for(system_class(name), model, settings)


def system_for(kind: SystemClass, model: Model, settings: Mapping[str, Any] | None = None) -> AnySystem:
    """A system of a class, as `make_system` makes one by name."""
    trained = kind.trained_settings(model.trained.get(kind.name, {}))
    system = kind.of({"chat_template": model.chat_template} | trained | dict(settings or {}))
    if system.capabilities.slots and not model.has_weights:
        raise ConfigError(
            f"system {kind.name!r} is not possible with model {model.name!r}: an endpoint reads text, not slots; give "
            f"a --system whose memory is text ({', '.join(text_systems())}), or a --model with weights here"
        )
    return system
