"""Names to classes and functions, loaded when they are first asked for.

Adding a system is one line in `SYSTEMS`; nothing else in shared code changes.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from memfold.core.errors import unknown

SYSTEMS = {
    "pooled": "memfold.systems.pooled.system:Pooled",
    "full": "memfold.systems.full.system:Full",
    "retrieval": "memfold.systems.retrieval.system:Retrieval",
}


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
