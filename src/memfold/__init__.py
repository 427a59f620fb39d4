"""memfold compresses long documents into small memories that a language model answers from.

`memfold.fold` and `memfold.open` are loaded on first access, so `import memfold` does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memfold.api import FoldedMemory, Response, fold, open

__all__ = ["FoldedMemory", "Response", "fold", "open"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'memfold' has no attribute {name!r}; it has {', '.join(__all__)}")
    from memfold import api

    return getattr(api, name)
