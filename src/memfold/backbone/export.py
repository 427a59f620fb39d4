"""Exports a model to a new folder: an ordinary Hugging Face folder, with the heads and settings of memfold.

A model that was trained with LoRA alone stays an adapter in the format of `peft`, unless it is merged.  A model with
parameters trained in full is always exported with all of its weights.  Other formats are not supported.
"""

from __future__ import annotations

from pathlib import Path

from memfold.backbone.adapters import CONFIG_FILE
from memfold.backbone.folder import load_backbone, save_backbone
from memfold.backbone.model import Backbone
from memfold.core.errors import ConfigError


def export(where: str, folder: Path, dtype: str = "float32", merge: bool = False) -> Backbone:
    """Write the model of a folder (or a Hugging Face id) to a new folder, and return the exported model.

    `dtype` is the data type of the exported weights.  `merge` merges an adapter into its base model.

    Raises:
        ConfigError: if the new folder exists and is not empty, or the dtype is unknown.
        CheckpointError: if the model cannot be loaded.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not an empty folder; name a new one")
    backbone = load_backbone(where, dtype=dtype, merged=merge or not _is_adapter(where))
    if backbone.base_adapter is not None and backbone.base_adapter.full:
        backbone = load_backbone(where, dtype=dtype)
    save_backbone(backbone, folder, dtype)
    return backbone


def _is_adapter(where: str) -> bool:
    return (Path(where) / CONFIG_FILE).exists()
