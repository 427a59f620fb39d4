"""Names to classes and functions, loaded when they are first asked for, and systems made for a backbone.

Adding a system is one line in `SYSTEMS`; nothing else in shared code changes.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from memfold.core.errors import ConfigError, unknown

if TYPE_CHECKING:
    from memfold.backbone.model import Backbone
    from memfold.core.system import MemorySystem

SYSTEMS = {
    "pooled": "memfold.systems.pooled.system:Pooled",
    "full": "memfold.systems.full.system:Full",
    "retrieval": "memfold.systems.retrieval.system:Retrieval",
    "recurrent": "memfold.systems.recurrent.system:Recurrent",
}

# systems with trained weights of their own -> function from their stored tensors to the module
HEADS = {"pooled": "memfold.systems.pooled.head:read_head"}

DEFAULT_RATIO = 16  # of a model that was trained with it among others


def load(kind: str, name: str, table: Mapping[str, str]) -> Any:
    """The object that `table` names `module:attribute` under `name`.

    Raises:
        ConfigError: for a name outside the table, with the nearest one.
    """
    if name not in table:
        raise unknown(kind, name, table)
    module, attribute = table[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def system_class(name: str) -> Any:
    """The class of a memory system by its name."""
    return load("system", name, SYSTEMS)


@cache
def setting_names(name: str) -> frozenset[str]:
    """What can be set of a memory system."""
    return frozenset(system_class(name)().settings)


def make_system(name: str, backbone: Backbone, settings: Mapping[str, Any] | None = None,
                table: Mapping[str, str] = SYSTEMS) -> MemorySystem:  # fmt: skip
    """A system with what the backbone was trained with for it, and `settings` over that.

    Raises:
        ConfigError: for an unknown system, a setting that it does not have, an impossible value, or a system of slots
            for a backbone that reads text only.
    """
    make = load("system", name, table)
    trained = {key: value for key, value in backbone.trained.get(name, {}).items() if key != "ratios"}
    ratios = trained_ratios(name, backbone)
    if ratios:
        trained["ratio"] = DEFAULT_RATIO if DEFAULT_RATIO in ratios else max(ratios)
    try:
        system: MemorySystem = make(**{"chat_template": backbone.chat_template} | trained | dict(settings or {}))
    except TypeError as error:
        raise ConfigError(f"system {name!r} cannot be made: {str(error).partition(') ')[2] or error}") from None
    if "ratio" in system.settings and not backbone.reads_slots:
        raise ConfigError(
            f"system {name!r} is not possible with model {backbone.name!r}: an endpoint reads text, not slots; give a "
            "--system whose memory is text (full, retrieval, recurrent), or a --model with weights here"
        )
    return system


def trained_ratios(name: str, backbone: Backbone) -> Sequence[int]:
    """The ratios that the backbone was trained with for a system; none when it was not, or the system has none."""
    return tuple(backbone.trained.get(name, {}).get("ratios", ()))
