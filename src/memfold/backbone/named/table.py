"""The table of models that have a name of their own; adding one takes a file here and a line in `NAMED`."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, cast

from memfold.core.registry import load

TINY = "tiny"  # used if no model is given

NAMED = {
    TINY: "memfold.backbone.named.tiny:MODEL",
    "smollm2": "memfold.backbone.named.smollm2:MODEL",
}


class NamedModel(Protocol):
    """A model whose folder is found, or made, by its name."""

    def check(self) -> None:
        """Raise a `CheckpointError` if the model cannot be had; this takes no time."""
        ...

    def folder(self) -> Path:
        """Return the model folder, which is made if it does not exist yet.

        Raises:
            CheckpointError: if the model cannot be had.
        """
        ...


def named_model(name: str) -> NamedModel:
    """Return a model by its name.

    Raises:
        ConfigError: for a name that is not in the table.
    """
    return cast(NamedModel, load("model", name, NAMED))
