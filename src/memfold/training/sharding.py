"""Shards weights over processes (FSDP2): each holds a part of every layer trained in full, and its optimiser state.

Layers, embeddings and head are sharded one by one, since a step runs them in an unusual order: encoder, decoder, and
two backward passes.  Everything else (4-bit weights, LoRA matrices, heads) is small enough to be replicated.  A layer
is unsharded when it runs, so all processes must run the same layers in the same order: in supervised training they work
on the same mixture entry at a time, and a batch must fit one pass of the encoder.  Outside of training, layers can be
kept unsharded (`gathered`), and processes need not wait for each other.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, share_comm_ctx
from torch.distributed.tensor import DTensor, distribute_tensor

from memfold.backbone.folder import save_backbone
from memfold.backbone.model import Backbone
from memfold.core.errors import ConfigError
from memfold.core.outputs import writing
from memfold.training import checkpoint
from memfold.training.batches import mixture
from memfold.training.checkpoint import Progress
from memfold.training.optimisers import Optimisers
from memfold.training.processes import Processes
from memfold.training.recipe import Recipe

State = TypeVar("State")


def shard(backbone: Backbone, processes: Processes) -> None:
    """Shard a model over the processes and move the rest of it to their devices; a single process only moves it."""
    if processes.count > 1:
        mesh = init_device_mesh(torch.device(processes.device).type, (processes.count,))
        modules = shardable(backbone.model)
        for module in modules:
            sharded = fully_shard(module, mesh=mesh, reshard_after_forward=True)
            sharded.set_gradient_divide_factor(1.0)  # gradients are summed, like those of weights that are not sharded
            sharded.set_force_sum_reduction_for_comms(True)
        _chain(cast(list[FSDPModule], modules))
    backbone.model.to(processes.device)  # type: ignore[arg-type]
    backbone.heads.to(processes.device)


def _chain(modules: Sequence[FSDPModule]) -> None:
    """Free the unsharded gradient of a module when the next one has its own, and prefetch that next one.

    Without a common context each module keeps its gradient until the backward pass ends.  Without an explicit prefetch
    list FSDP uses the order of the last run, which differs between processes that have sampled.
    """
    share_comm_ctx(list(modules))
    for before, module in zip([*modules[:1], *modules], modules, strict=False):
        module.set_modules_to_backward_prefetch([before])


def check_same_passes(recipe: Recipe, processes: Processes) -> None:
    """Refuse a recipe whose processes would not run the same layers in the same order.

    Raises:
        ConfigError: naming what to change.
    """
    if recipe.hardware.devices % processes.count:
        raise ConfigError(
            f"{processes.count} processes run a recipe for hardware.devices = {recipe.hardware.devices}: sharded "
            "processes must work on the same mixture entry at a time; launch that many, or change hardware.devices"
        )
    for entry in mixture(recipe):
        longest, limit = max(entry.sizes), recipe.system(entry).capabilities.pass_tokens
        if limit is not None and recipe.tokens + longest > limit:
            raise ConfigError(
                f"tokens = {recipe.tokens} and documents of {longest} exceed one pass of the encoder ({limit}); "
                "sharded processes must run the same passes: lower tokens or sizes"
            )


@contextmanager
def gathered(backbone: Backbone) -> Iterator[None]:
    """Keep all layers unsharded on every process, for any number of passes without gradients.

    Costs the memory of the sharded weights.  All processes must enter and leave together.
    """
    modules = [module for module in backbone.model.modules() if isinstance(module, FSDPModule)]
    for module in modules:
        module.set_reshard_after_forward(False)
        module.unshard()
    try:
        yield
    finally:
        for module in modules:
            module.set_reshard_after_forward(True)
            module.reshard()


def shardable(model: Any) -> list[nn.Module]:
    """Return the modules to shard, in order: embeddings if they are not tied, fully trained layers, head."""
    modules = [layer for layer in model.base_model.layers if all(weight.requires_grad for weight in layer.parameters())]
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if embeddings.weight is not head.weight:
        modules = [embeddings, *modules, head]
    return [module for module in modules if all(weight.requires_grad for weight in module.parameters())]


def clip_gradients(parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
    """Scale gradients to a norm of at most `limit`.  Returns the norm before scaling, over all processes."""
    split = [parameter for parameter in parameters if isinstance(parameter, DTensor)]
    if not split:
        return torch.nn.utils.clip_grad_norm_(parameters, limit)
    replicated = [parameter.grad for parameter in parameters if not isinstance(parameter, DTensor)]
    squares = torch.zeros((), device=split[0].device)
    for gradient in [parameter.grad for parameter in split if parameter.grad is not None]:
        squares += _squares(_local(gradient))
    torch.distributed.all_reduce(squares)
    norm = (squares + sum(_squares(gradient) for gradient in replicated if gradient is not None)).sqrt()
    factor = (limit / (norm + 1e-6)).clamp(max=1.0)
    for parameter in parameters:
        if parameter.grad is not None:
            _local(parameter.grad).mul_(factor)
    return norm


def unsharded(state: State, keep: bool) -> State:
    """Return a state with all tensors unsharded; all processes must call this, and those with `keep` get the values."""
    if isinstance(state, DTensor):
        tensor = state.full_tensor()
        return tensor.cpu() if keep else tensor.new_empty(0)  # type: ignore[return-value]
    if isinstance(state, dict):
        return {name: unsharded(value, keep) for name, value in state.items()}  # type: ignore[return-value]
    if isinstance(state, list):
        return [unsharded(value, keep) for value in state]  # type: ignore[return-value]
    return state


def unsharded_weights(model: nn.Module, keep: bool) -> dict[str, Tensor] | None:
    """Return the parameters of a sharded model by name, as from `unsharded`; None if it is not sharded."""
    named: dict[str, Tensor] = dict(model.named_parameters())
    return unsharded(named, keep) if any(isinstance(parameter, DTensor) for parameter in named.values()) else None


def save_model(backbone: Backbone, folder: Path, processes: Processes) -> None:
    """Unshard the weights and save them in the first process; all processes must call this.

    The folder is replaced once the new one is whole.

    Raises:
        DataError: if it cannot be written.
    """
    weights = unsharded_weights(backbone.model, processes.first)
    if processes.first:
        partial = folder.with_name(f"{folder.name}.partial")
        with writing(folder):
            shutil.rmtree(partial, ignore_errors=True)
            save_backbone(backbone, partial, weights=weights)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)


def save_checkpoint(
    run: Path,
    backbone: Backbone,
    progress: Progress,
    optimisers: Optimisers,
    extra: dict[str, Any],
    processes: Processes,
) -> None:
    """Save the checkpoint of a step, with the states of the optimisers, as `save_model` saves a model."""
    states = unsharded(optimisers.state_dict(), processes.first)
    weights = unsharded_weights(backbone.model, processes.first)
    if processes.first:
        checkpoint.save(run, backbone, progress, states, extra, weights)


def split_states(states: Sequence[dict[str, Any]], optimisers: Optimisers) -> list[dict[str, Any]]:
    """Return stored optimiser states with every tensor sharded like its parameter."""
    result = []
    for state, (_, optimiser) in zip(states, optimisers.parts, strict=True):
        parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        entries = {
            index: {name: _as(value, parameters[index]) for name, value in entry.items()}
            for index, entry in state["state"].items()
        }
        result.append(state | {"state": entries})
    return result


def _as(value: Any, parameter: Tensor) -> Any:
    if isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape:
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value


def _local(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def _squares(gradient: Tensor) -> Tensor:
    return gradient.detach().float().square().sum()
