"""Formats the plan of a recipe for a published size, and finds the memory size of a device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memfold.training.plan import Plan
    from memfold.training.recipe import StageRecipe

GB = 1e9


def plan_lines(recipe: StageRecipe, estimate: Plan) -> Iterator[str]:
    """Yield the lines of a plan: parameters, positions, memory, hours."""
    hardware, weights = recipe.hardware, estimate.weights
    total = weights.trained + weights.frozen
    yield f"stage     {recipe.stage} of {recipe.architecture}, starting from {recipe.parent}"
    yield (
        f"weights   {weights.trained:,} parameters trained ({weights.full:,} in full, {weights.lora:,} in LoRA, "
        f"{weights.projection:,} of the projection), {weights.frozen:,} frozen; {weights.trained / total:.0%} trained"
    )
    yield (
        f"steps     {recipe.steps:,} of {estimate.work}: about {estimate.positions / recipe.steps:,.0f} token "
        f"positions per step (encoded and decoded), {estimate.positions / 1e9:.2f} billion in total"
    )
    total_weight = sum(entry.weight for entry in recipe.mixture)
    for entry in recipe.mixture:
        name = f"{entry.label} ({entry.dataset})" if entry.dataset else entry.label
        yield f"{entry.weight / total_weight:8.0%}  {name}, documents of {', '.join(map(str, entry.sizes))} tokens"
    sharded = ", layers trained in full are sharded" if hardware.sharded else ""
    yield f"devices   {hardware.devices} of {hardware.memory:.0f} GB{sharded}"
    yield f"memory    about {estimate.total_memory:.1f} GB on each:"
    yield from (f"{size:8.1f}  {name}" for name, size in estimate.memory.items() if size)
    hours = estimate.device_hours
    yield (
        f"time      about {hours:,.0f} device hours, {hours / hardware.devices:,.0f} hours on {hardware.devices}, "
        f"assuming {hardware.utilisation:.0%} of {hardware.teraflops:.0f} TFLOP/s"
    )


def device_memory() -> float:
    """Return the memory in GB of the training device; on a CPU, the share of this process of the machine's memory."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[1]) / GB
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB / processes
