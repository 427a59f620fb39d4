"""Exports a model to a new folder: an ordinary Hugging Face folder, with the heads and settings of memfold.

A model that was trained with LoRA alone stays an adapter in the format of `peft`, unless it is merged.  A model with
parameters trained in full is always exported with all of its weights.  Other formats are not supported.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from memfold.backbone.device import check_dtype
from memfold.backbone.resolve import CONFIG_FILE
from memfold.core.errors import ConfigError
from memfold.core.outputs import check_empty, new_folder

if TYPE_CHECKING:
    from memfold.backbone.model import Backbone


def export(where: str, folder: Path, dtype: str = "float32", merge: bool = False) -> Backbone:
    """Write the model of a folder (or a Hugging Face id) to a new folder, and return the exported model.

    `dtype` is the data type of the exported weights.  `merge` merges an adapter into its base model.

    Raises:
        ConfigError: if the dtype is unknown, or there is no adapter to merge.
        DataError: if the new folder exists and is not empty, or if it cannot be written.
        CheckpointError: if the model cannot be loaded.
    """
    if merge and not _is_adapter(where):
        raise ConfigError(f"--merge has no effect: {where} has no LoRA adapter; leave --merge out")
    check_empty(folder)
    check_dtype(dtype)
    from memfold.backbone.folder import load_backbone, save_backbone

    backbone = load_backbone(where, dtype=dtype, merged=merge or not _is_adapter(where))
    if backbone.base_adapter is not None and backbone.base_adapter.full:
        backbone = load_backbone(where, dtype=dtype)
    with new_folder(folder) as partial:
        save_backbone(backbone, partial, dtype)
    return backbone


def _is_adapter(where: str) -> bool:
    return (Path(where) / CONFIG_FILE).exists()
