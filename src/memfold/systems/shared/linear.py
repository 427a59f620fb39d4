"""Adapters of systems: the linear modules that they change, by the names that published architectures give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from memfold.core.errors import CheckpointError

if TYPE_CHECKING:
    from memfold.backbone.model import Backbone

MODULES = ("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj", "down_proj")


def matrices(modules: Mapping[str, tuple[int, int]], role: str, rank: int) -> dict[str, int]:
    """Return the number of elements of each matrix of a role's adapter, by parameter name.

    `modules` maps the names of the linear modules of a model to their input and output sizes.
    """
    adapted = {name: sizes for name, sizes in modules.items() if name.rsplit(".", 1)[-1] in MODULES}
    down = {f"{name}.lora_A.{role}.weight": rank * inner for name, (inner, _) in adapted.items()}
    return down | {f"{name}.lora_B.{role}.weight": rank * outer for name, (_, outer) in adapted.items()}


def add_adapter(backbone: Backbone, role: str, rank: int, seed: int = 0) -> None:
    """Add the adapter of a role, without effect, to every linear module; one that the model has is left unchanged.

    Raises:
        CheckpointError: for a model without such modules.
    """
    from memfold.backbone.adapters import add_role

    add_role(backbone, role, rank, 2.0 * rank, _linear_modules(backbone), seed)


def _linear_modules(backbone: Backbone) -> tuple[str, ...]:
    """Return the names, without their layers, of the linear modules of attention and feed-forward layers.

    Raises:
        CheckpointError: for a model that has none of them.
    """
    present = {name.rsplit(".", 1)[-1] for name, _ in backbone.model.named_modules()}
    names = tuple(name for name in MODULES if name in present)
    if not names:
        raise CheckpointError(
            f"model {backbone.name!r} has no modules named {', '.join(MODULES)} for adapters; use another model"
        )
    return names
