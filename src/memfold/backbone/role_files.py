"""Writes the adapters of roles to a model folder, and reads them from there, at once or each when it is first used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from memfold.backbone.adapters import (
    PREFIX,
    WEIGHTS_FILE,
    Adapter,
    active,
    add_role,
    check_role,
    file_name,
    fill,
    load_tensors,
    on_cpu,
    parameter_name,
    read_config,
    save_config,
)
from memfold.backbone.merged_roles import can_merge, replaced
from memfold.backbone.record import ROLES_FOLDER
from memfold.backbone.resolve import CONFIG_FILE
from memfold.backbone.weights import check_names

if TYPE_CHECKING:
    from memfold.backbone.model import Backbone


def ready(backbone: Backbone, role: str | None) -> None:
    """Check that the model has an adapter for a role, which is read if need be; None is always accepted.

    Most systems use a model without adapters, so that only those are read that are used.

    Raises:
        CheckpointError: as `check_role`, `restore_role` and `merge_role`.
    """
    for folder in [folder for folder in backbone.stored_roles if folder.name == role]:
        restore = merge_role if can_merge(backbone.model) else restore_role
        with active(backbone, None):  # the weights of another role are not those to merge into
            restore(backbone, folder)
        backbone.stored_roles = tuple(other for other in backbone.stored_roles if other != folder)
    check_role(backbone, role)


def save_roles(backbone: Backbone, folder: Path, weights: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Write the adapter of each role to `folder`/adapters in the format of `peft`, in data type `dtype`.

    `weights` maps the parameter names of the model to the values to save.
    """
    for role, adapter in backbone.roles.items():
        role_folder = folder / ROLES_FOLDER / role
        role_folder.mkdir(parents=True, exist_ok=True)
        save_config(adapter, role_folder)
        lora = {file_name(name, role): on_cpu(weights[name]).to(dtype) for name in _matrices(weights, role)}
        save_file(lora, role_folder / WEIGHTS_FILE, metadata={"format": "pt"})


def stored_roles(folder: Path) -> tuple[Path, ...]:
    """Return the folders of the adapters of roles in a model folder."""
    return tuple(sorted(path.parent for path in folder.glob(f"{ROLES_FOLDER}/*/{CONFIG_FILE}")))


def restore_role(backbone: Backbone, folder: Path) -> None:
    """Add the adapter of a role as it is in its folder, separate from the weights, so that it can be trained.

    Raises:
        CheckpointError: for an adapter that is damaged or does not match the model.
    """
    role, fingerprint = folder.name, backbone.stored_fingerprint
    rank, alpha, targets, _ = read_config(folder)
    add_role(backbone, role, rank, alpha, targets)
    parameters = dict(backbone.model.named_parameters())
    tensors = load_tensors(folder, WEIGHTS_FILE)
    stored = {parameter_name(name, role): value.float() for name, value in tensors.items()}
    fill(parameters, _matrices(parameters, role), stored, folder)
    backbone.stored_fingerprint = fingerprint


def merge_role(backbone: Backbone, folder: Path) -> None:
    """Read the adapter of a role, and merge it into copies of the weights that it changes (`merged_roles`).

    Raises:
        CheckpointError: for an adapter that is damaged or does not match the model.
    """
    rank, alpha, targets, _ = read_config(folder)
    stored, scale = load_tensors(folder, WEIGHTS_FILE), alpha / rank
    shapes, modules = dict[str, tuple[int, int]](), dict[str, nn.Linear]()
    for name, module in backbone.model.named_modules():
        if isinstance(module, nn.Linear) and any(f".{name}".endswith(f".{target}") for target in targets):
            shapes[f"{PREFIX}{name}.lora_A.weight"] = rank, module.in_features
            shapes[f"{PREFIX}{name}.lora_B.weight"] = module.out_features, rank
            modules[name] = module
    wrong = [name for name in shapes.keys() & stored.keys() if stored[name].shape != shapes[name]]
    check_names(folder, shapes.keys() - stored.keys(), stored.keys() - shapes.keys(), wrong)
    backbone.merged_roles[folder.name] = tuple(
        replaced(module.weight, stored[f"{PREFIX}{name}.lora_A.weight"], stored[f"{PREFIX}{name}.lora_B.weight"], scale)
        for name, module in modules.items()
    )
    backbone.roles[folder.name] = Adapter("", rank, alpha, targets)


def _matrices(names: Iterable[str], role: str) -> set[str]:
    """Return the names of the LoRA matrices of a role."""
    return {name for name in names if f".lora_A.{role}." in name or f".lora_B.{role}." in name}
