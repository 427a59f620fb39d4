"""FQLoRA (appendix I.1 of the pooled paper): some layers trained in full, low-rank adapters on all others.

Evenly spaced layers, the embeddings and the language model head are trained in full.  Every linear module of the other
layers gets LoRA matrices beside its frozen weights (in 4 bits if the recipe says so).  Nothing else is trained: the
normalisation of the other layers and the final one are frozen.  Learning rates are set by the recipe's groups; LoRA
parameters match `*lora_*`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from memfold.backbone.record import Quantisation
from memfold.core.config import require
from memfold.core.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from memfold.backbone.model import Backbone


@dataclass(frozen=True)
class FQLoRA:
    """How many layers are trained in full, and the LoRA settings of the others (defaults: table 9).

    With `embeddings = false` neither embeddings nor head are trained; with 0 full layers in addition, the result is a
    pure adapter.
    """

    full_layers: int
    rank: int = 64
    alpha: float = 16.0
    dropout: float = 0.05
    quantisation: Quantisation = "none"
    embeddings: bool = True

    def __post_init__(self) -> None:
        require(self.full_layers >= 0, "full_layers", self.full_layers, "0 or more")
        require(self.rank > 0, "rank", self.rank, "1 or more")
        require(0 < self.alpha < math.inf, "alpha", self.alpha, "above 0")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "0 to below 1")


def even_layers(layers: int, full: int) -> tuple[int, ...]:
    """Return `full` evenly spaced layers out of `layers`, including the first and the last.

    >>> even_layers(28, 10)
    (0, 3, 6, 9, 12, 15, 18, 21, 24, 27)

    Raises:
        ConfigError: when the model has fewer layers.
    """
    if full > layers:
        raise ConfigError(f"fqlora.full_layers = {full} is not possible; the model has {layers} layers")
    if full < 2:
        return tuple(range(full))
    return tuple(round(index * (layers - 1) / (full - 1)) for index in range(full))


def trained_in_full(model: PreTrainedModel, fqlora: FQLoRA) -> tuple[str, ...]:
    """Names of the parameters that are trained in full; tied embeddings count once."""
    prefixes = [f"{_layers(model)}.{index}." for index in even_layers(len(layers_of(model)), fqlora.full_layers)]
    if fqlora.embeddings:
        ends = (model.get_input_embeddings(), model.get_output_embeddings())
        prefixes += [f"{name}." for name, module in model.named_modules() if module in ends]
    return tuple(name for name, _ in model.named_parameters() if name.startswith(tuple(prefixes)))


def targets(model: PreTrainedModel, fqlora: FQLoRA) -> tuple[str, ...]:
    """Names of the linear modules that get LoRA matrices."""
    from torch import nn

    full, within = trained_in_full(model, fqlora), f"{_layers(model)}."
    linear = (name for name, module in model.named_modules() if isinstance(module, nn.Linear))
    return tuple(sorted(name for name in linear if name.startswith(within) and f"{name}.weight" not in full))


def adapt(backbone: Backbone, fqlora: FQLoRA, base: str) -> None:
    """Prepare a model for FQLoRA training; adapters that it already has are kept.

    Trained parameters become float32, whatever the others are.

    Raises:
        ConfigError: when the model's adapters have other settings; the message names the first difference.
    """
    from torch import nn

    from memfold.backbone.adapters import NAME, Adapter, attach, is_lora

    model, dropout = backbone.model, fqlora.dropout
    if backbone.base_adapter is None:
        full = trained_in_full(model, fqlora)
        wanted = Adapter(base, fqlora.rank, fqlora.alpha, targets(model, fqlora), full, fqlora.quantisation)
        attach(backbone, wanted, dropout)
    else:
        _check_same(backbone, fqlora)
        full = backbone.base_adapter.full
        for module in (module for module in model.modules() if hasattr(module, "lora_dropout")):
            cast("nn.ModuleDict", module.lora_dropout)[NAME] = nn.Dropout(dropout)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_lora(name) or name in full)
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    backbone.heads.float()


def drop_out(model: PreTrainedModel, active: bool) -> None:
    """Switch dropout on for training or off for validation; 4-bit modules must stay in their mode."""
    from torch import nn

    for module in (module for module in model.modules() if isinstance(module, nn.Dropout)):
        module.train(active)


def _check_same(backbone: Backbone, fqlora: FQLoRA) -> None:
    adapter, model = backbone.base_adapter, backbone.model
    assert adapter is not None, "the model has an adapter"
    stored = {
        "rank": adapter.rank,
        "alpha": adapter.alpha,
        "quantisation": adapter.quantisation,
        "parameters in full": adapter.full,
    }
    full = trained_in_full(model, fqlora)
    wanted = {
        "rank": fqlora.rank,
        "alpha": fqlora.alpha,
        "quantisation": fqlora.quantisation,
        "parameters in full": full,
    }
    for name, value in wanted.items():
        if stored[name] != value:
            raise ConfigError(
                f"fqlora: {name} is {_short(value)}, and {_short(stored[name])} in the parent {backbone.name!r}; use "
                "its settings, or merge it first (memfold export --merge) and name the result as parent"
            )


def _short(value: object) -> str:
    if not isinstance(value, tuple):
        return repr(value)
    return f"{len(value)} ({value[0]} ... {value[-1]})" if value else "none"


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """Return the layers of a model, in order."""
    return cast("nn.ModuleList", model.base_model.layers)


def _layers(model: PreTrainedModel) -> str:
    """Return the attribute path of a model's layers, such as `model.layers`."""
    return next(str(name) for name, module in model.named_modules() if module is layers_of(model))
