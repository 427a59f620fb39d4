"""A trained model as others take it: an ordinary Hugging Face folder with our heads and settings beside the weights.

What is LoRA and nothing else stays an adapter, as `peft` stores it, unless it is to be merged; a model with layers
trained in full is always written whole.  Left out: conversion to other formats.
"""

from __future__ import annotations

from pathlib import Path

from memfold.backbone.adapters import CONFIG_FILE
from memfold.backbone.folder import load_backbone, save_backbone
from memfold.backbone.model import Backbone
from memfold.core.errors import ConfigError


def export(where: str, folder: Path, dtype: str = "float32", merge: bool = False) -> Backbone:
    """Write the model of a folder (or a Hugging Face id) to a new one; gives back what was written.

    Raises:
        ConfigError: when there is something in the new folder, or the dtype is unknown.
        CheckpointError: for a model that cannot be loaded.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} holds something already; name a new or empty folder")
    backbone = load_backbone(where, dtype=dtype, merged=merge or not _is_adapter(where))
    if backbone.base_adapter is not None and backbone.base_adapter.full:
        backbone = load_backbone(where, dtype=dtype)
    save_backbone(backbone, folder, dtype)
    return backbone


def _is_adapter(where: str) -> bool:
    return (Path(where) / CONFIG_FILE).exists()
