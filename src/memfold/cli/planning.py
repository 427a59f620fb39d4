"""How the plan of a recipe for a published size shows itself, and how much memory there is for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memfold.training.plan import Plan
    from memfold.training.recipe import StageRecipe

GB = 1e9


def plan_lines(recipe: StageRecipe, found: Plan) -> Iterator[str]:
    """Parameters, places, memory, hours."""
    hardware, weights = recipe.hardware, found.weights
    total = weights.trained + weights.frozen
    yield f"stage     {recipe.stage} of {recipe.architecture}, starting from {recipe.parent}"
    yield (
        f"weights   {weights.trained:,} parameters trained ({weights.full:,} in full, {weights.lora:,} in LoRA, "
        f"{weights.projection:,} of the projection), {weights.frozen:,} frozen; {weights.trained / total:.0%} trained"
    )
    yield (
        f"steps     {recipe.steps:,} of {found.work}: about {found.places / recipe.steps:,.0f} places a "
        f"step (encoded and decoded), {found.places / 1e9:.2f} billion in all"
    )
    shares = sum(share.share for share in recipe.mixture)
    for share in recipe.mixture:
        name = f"{share.label} ({share.dataset})" if share.dataset else share.label
        yield f"{share.share / shares:8.0%}  {name}, documents of {', '.join(map(str, share.sizes))} tokens"
    sharded = ", layers in full spread over them" if hardware.sharded else ""
    yield f"devices   {hardware.devices} of {hardware.memory:.0f} GB{sharded}"
    yield f"memory    about {found.total_memory:.1f} GB on each:"
    yield from (f"{size:8.1f}  {name}" for name, size in found.memory.items() if size)
    yield (
        f"time      about {found.device_hours:,.0f} device hours, {found.device_hours / hardware.devices:,.0f} hours "
        f"on {hardware.devices}, if they reach {hardware.utilisation:.0%} of {hardware.teraflops:.0f} TFLOP/s (assumed)"
    )


def device_memory() -> float:
    """GB of the device that this process trains on; of the machine where that is a processor."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[1]) / GB
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB / processes
