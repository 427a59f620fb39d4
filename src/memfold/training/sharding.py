"""Weights spread over processes (FSDP2): each keeps a part of every layer trained in full, and its optimiser state.

Layers, embeddings and head are sharded one by one, since a step runs them in an order of its own: encoder, decoder, and
backwards in two passes.  All else (4-bit weights, LoRA matrices, heads) is small enough to be everywhere.  A layer is
put together when it runs, so all processes must run the same layers in the same order: in supervised training they take
the same mixture entry at a time, and a batch must fit one pass of the encoder.  While nothing is trained, layers may be
kept together (`gathered`), and processes need not wait for each other.
"""

from __future__ import annotations

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
from memfold.systems.pooled.encoder import BATCH_TOKENS
from memfold.training import checkpoint
from memfold.training.batches import mixture
from memfold.training.checkpoint import Progress
from memfold.training.optimisers import Optimisers
from memfold.training.processes import Processes
from memfold.training.recipe import Recipe

State = TypeVar("State")


def shard(backbone: Backbone, processes: Processes) -> None:
    """Spread a model over the processes and put the rest of it on their devices; alone it only goes to its device."""
    if processes.count > 1:
        mesh = init_device_mesh(torch.device(processes.device).type, (processes.count,))
        modules = shardable(backbone.model)
        for module in modules:
            sharded = fully_shard(module, mesh=mesh, reshard_after_forward=True)
            sharded.set_gradient_divide_factor(1.0)  # the sum of all processes, as of what is not sharded
            sharded.set_force_sum_reduction_for_comms(True)
        _in_turn(cast(list[FSDPModule], modules))
    backbone.model.to(processes.device)  # type: ignore[arg-type]
    backbone.heads.to(processes.device)


def _in_turn(modules: Sequence[FSDPModule]) -> None:
    """Let a module's whole gradient go when the next one has its own, and fetch that next one ahead.

    Without a common context each keeps it until the backward pass has ended; without a list of what to fetch, it would
    go by what ran last, which differs between processes that have sampled.
    """
    share_comm_ctx(list(modules))
    for before, module in zip([*modules[:1], *modules], modules, strict=False):
        module.set_modules_to_backward_prefetch([before])


def check_same_passes(recipe: Recipe, processes: Processes) -> None:
    """Refuse a recipe whose processes would not run the same layers in the same order.

    Raises:
        ConfigError: with what to change.
    """
    if recipe.hardware.devices % processes.count:
        raise ConfigError(
            f"{processes.count} processes share a recipe for hardware.devices = {recipe.hardware.devices}: sharded "
            "ones must take the same mixture entry at a time; launch as many, or set hardware.devices to their number"
        )
    longest = max(max(share.sizes) for share in mixture(recipe))
    if recipe.tokens + longest > BATCH_TOKENS:
        raise ConfigError(
            f"tokens = {recipe.tokens} and documents of {longest} are more than one pass of the encoder takes "
            f"({BATCH_TOKENS}); sharded processes must run the same passes: lower tokens or sizes"
        )


@contextmanager
def gathered(backbone: Backbone) -> Iterator[None]:
    """Keep all layers in one piece on every process, for passes without gradients, as many as each likes.

    Costs the memory of what was spread.  All processes must come here and leave together.
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
    """Embeddings, layers all of whose parameters are trained, head, as they run; tied embeddings stay whole."""
    modules = [layer for layer in model.base_model.layers if all(weight.requires_grad for weight in layer.parameters())]
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if embeddings.weight is not head.weight:
        modules = [embeddings, *modules, head]
    return [module for module in modules if all(weight.requires_grad for weight in module.parameters())]


def clip_gradients(parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
    """Scale gradients to a norm of at most `limit`; returns the norm before, over all processes."""
    split = [parameter for parameter in parameters if isinstance(parameter, DTensor)]
    if not split:
        return torch.nn.utils.clip_grad_norm_(parameters, limit)
    whole = [parameter.grad for parameter in parameters if not isinstance(parameter, DTensor)]
    squares = torch.zeros((), device=split[0].device)
    for gradient in [parameter.grad for parameter in split if parameter.grad is not None]:
        squares += _squares(_local(gradient))
    torch.distributed.all_reduce(squares)
    norm = (squares + sum(_squares(gradient) for gradient in whole if gradient is not None)).sqrt()
    factor = (limit / (norm + 1e-6)).clamp(max=1.0)
    for parameter in parameters:
        if parameter.grad is not None:
            _local(parameter.grad).mul_(factor)
    return norm


def whole(state: State, kept: bool) -> State:
    """A state with every tensor in one piece; all processes must ask for it, and one has it where it is `kept`."""
    if isinstance(state, DTensor):
        tensor = state.full_tensor()
        return tensor.cpu() if kept else tensor.new_empty(0)  # type: ignore[return-value]
    if isinstance(state, dict):
        return {name: whole(value, kept) for name, value in state.items()}  # type: ignore[return-value]
    if isinstance(state, list):
        return [whole(value, kept) for value in state]  # type: ignore[return-value]
    return state


def whole_weights(model: nn.Module, kept: bool) -> dict[str, Tensor] | None:
    """The parameters of a sharded model in one piece, by name, as `whole` gives them; None of one that is not."""
    named: dict[str, Tensor] = dict(model.named_parameters())
    return whole(named, kept) if any(isinstance(parameter, DTensor) for parameter in named.values()) else None


def save_model(backbone: Backbone, folder: Path, processes: Processes) -> None:
    """Put the weights together and let the first process write them; all must come here."""
    weights = whole_weights(backbone.model, processes.first)
    if processes.first:
        save_backbone(backbone, folder, weights=weights)


def save_checkpoint(run: Path, backbone: Backbone, progress: Progress, optimisers: Optimisers, extra: dict[str, Any],
                    processes: Processes) -> None:  # fmt: skip
    """The same for the checkpoint of a step, with the states of the optimisers."""
    states = whole(optimisers.state_dict(), processes.first)
    weights = whole_weights(backbone.model, processes.first)
    if processes.first:
        checkpoint.save(run, backbone, progress, states, extra, weights)


def split_states(states: Sequence[dict[str, Any]], optimisers: Optimisers) -> list[dict[str, Any]]:
    """Stored states with every tensor laid out as the parameter that it belongs to."""
    found = []
    for state, (_, optimiser) in zip(states, optimisers.parts, strict=True):
        parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        entries = {
            index: {name: _as(value, parameters[index]) for name, value in entry.items()}
            for index, entry in state["state"].items()
        }
        found.append(state | {"state": entries})
    return found


def _as(value: Any, parameter: Tensor) -> Any:
    if isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape:
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value


def _local(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def _squares(gradient: Tensor) -> Tensor:
    return gradient.detach().float().square().sum()
