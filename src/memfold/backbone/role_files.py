"""Writes the adapters of roles to a model folder, and reads them from there, at once or when one is first used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from memfold.backbone.adapters import (
    WEIGHTS_FILE,
    add_role,
    check_role,
    file_name,
    fill,
    load_tensors,
    lora_config,
    on_cpu,
    parameter_name,
    read_config,
)
from memfold.backbone.record import ROLES_FOLDER
from memfold.backbone.resolve import CONFIG_FILE

if TYPE_CHECKING:
    from memfold.backbone.model import Backbone


def ready(backbone: Backbone, role: str | None) -> None:
    """Check that the model has an adapter for a role, which is read if need be; None is always accepted.

    Raises:
        CheckpointError: as `check_role` and `restore_roles`.
    """
    if role is not None:
        restore_roles(backbone)
        check_role(backbone, role)


def save_roles(backbone: Backbone, folder: Path, weights: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Write the adapter of each role to `folder`/adapters in the format of `peft`, in data type `dtype`.

    `weights` maps the parameter names of the model to the values to save.
    """
    for role, adapter in backbone.roles.items():
        role_folder = folder / ROLES_FOLDER / role
        role_folder.mkdir(parents=True, exist_ok=True)
        lora_config(adapter, 0.0).save_pretrained(str(role_folder))
        lora = {file_name(name, role): on_cpu(weights[name]).to(dtype) for name in _matrices(weights, role)}
        save_file(lora, role_folder / WEIGHTS_FILE, metadata={"format": "pt"})


def stored_roles(folder: Path) -> tuple[Path, ...]:
    """Return the folders of the adapters of roles in a model folder."""
    return tuple(sorted(path.parent for path in folder.glob(f"{ROLES_FOLDER}/*/{CONFIG_FILE}")))


def restore_roles(backbone: Backbone) -> None:
    """Add the adapters of roles that the model's folder holds, unless that is done.

    Most systems use a model without them, `peft` takes a second to import, and idle adapters slow down every layer.

    Raises:
        CheckpointError: for an adapter that is damaged or does not match the model.
    """
    waiting, backbone.stored_roles = backbone.stored_roles, ()
    fingerprint = backbone.stored_fingerprint
    for role_folder in waiting:
        rank, alpha, targets, _ = read_config(role_folder)
        role = role_folder.name
        add_role(backbone, role, rank, alpha, targets)
        parameters = dict(backbone.model.named_parameters())
        tensors = load_tensors(role_folder, WEIGHTS_FILE)
        stored = {parameter_name(name, role): value.float() for name, value in tensors.items()}
        fill(parameters, _matrices(parameters, role), stored, role_folder)
    backbone.stored_fingerprint = fingerprint


def _matrices(names: Iterable[str], role: str) -> set[str]:
    """Return the names of the LoRA matrices of a role."""
    return {name for name in names if f".lora_A.{role}." in name or f".lora_B.{role}." in name}
