"""Projections of the compressor's own, which take the place of the model's at memory tokens.

LycheeMemory (section 3.2.2) gives memory tokens query, key, value and output projections of their own.  They act
through hooks while the compressor runs, so the class and the names of the model's modules stay as they are, and tokens
of text are projected by the model alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn

from memfold.backbone.model import Backbone
from memfold.core.errors import CheckpointError

MODULE = "self_attn.{}_proj"


def own_projections(backbone: Backbone, letters: Sequence[str]) -> nn.ModuleDict:
    """Return a projection for each letter (q, k, v, o) and layer, which begins as a copy of the model's.

    Raises:
        CheckpointError: for a model that does not have these projections.
    """
    own = nn.ModuleDict()
    for letter in letters:
        own[letter] = nn.ModuleList(_copy(_base(module)) for module in _modules(backbone, letter))
    return own


def stored_projections(tensors: Mapping[str, Tensor]) -> nn.ModuleDict:
    """Return projections without values, of the shapes of stored tensors, whose names are `LETTER.LAYER.weight`."""
    own = nn.ModuleDict()
    for letter in dict.fromkeys(name.partition(".")[0] for name in tensors):
        count = sum(name.startswith(f"{letter}.") and name.endswith(".weight") for name in tensors)
        shapes = [
            (tensors[f"{letter}.{layer}.weight"].shape, f"{letter}.{layer}.bias" in tensors) for layer in range(count)
        ]
        own[letter] = nn.ModuleList(nn.Linear(size, rows, bias) for (rows, size), bias in shapes)
    return own


@contextmanager
def at_memory_tokens(backbone: Backbone, own: nn.ModuleDict, memory: Tensor) -> Iterator[None]:
    """Project the tokens of `memory` [b, t] with `own` in forward passes over b rows of t tokens."""
    handles = [
        module.register_forward_hook(_replacing(own_module, memory))
        for letter, layers in own.items()
        for module, own_module in zip(_modules(backbone, letter), layers, strict=True)  # type: ignore[call-overload]
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _replacing(own: nn.Module, memory: Tensor) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.index_put((memory,), own(inputs[0][memory]).to(output.dtype))

    return hook


def _modules(backbone: Backbone, letter: str) -> list[nn.Module]:
    layers: Any = getattr(backbone.model.base_model, "layers", ())
    try:
        return [layer.get_submodule(MODULE.format(letter)) for layer in layers]
    except AttributeError:
        raise CheckpointError(
            f"model {backbone.name!r} has no modules {MODULE.format(letter)}, which projections = {letter!r} replaces "
            "at memory tokens; leave projections out, or use another model"
        ) from None


def _base(module: nn.Module) -> nn.Linear:
    """Return a linear module without its adapters."""
    base: Any = getattr(module, "base_layer", module)
    return cast(nn.Linear, base)


def _copy(linear: nn.Linear) -> nn.Linear:
    copy = nn.Linear(linear.in_features, linear.out_features, linear.bias is not None)
    copy.load_state_dict({name: value.detach().float() for name, value in linear.state_dict().items()})
    return copy
