"""memfold compresses long documents into small memories that a language model answers from.

Everything is loaded on first access, so `import memfold` does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memfold.api import FoldedMemory, Response, fold, open
    from memfold.core.errors import CallError, CheckpointError, ConfigError, DataError, MemfoldError

    __version__: str

__all__ = [
    "CallError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "FoldedMemory",
    "MemfoldError",
    "Response",
    "fold",
    "open",
]
_ERRORS = ("CallError", "CheckpointError", "ConfigError", "DataError", "MemfoldError")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("memfold")
    if name not in __all__:
        raise AttributeError(f"module 'memfold' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module("memfold.core.errors" if name in _ERRORS else "memfold.api"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
