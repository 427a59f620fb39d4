"""What a recipe for a published size will take, from its shape alone: parameters, places, memory, hours.

Counts of parameters are exact: the same choice is made on a model without numbers as later on one with them.  Memory
and hours are estimates by the rules written here; nothing is loaded.  Left out: communication, and what an allocator
wastes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import nn
from transformers import PreTrainedModel

from memfold.backbone.shapes import SHAPES, Shape
from memfold.core.config import build
from memfold.core.errors import ConfigError
from memfold.systems.pooled.settings import PooledSettings
from memfold.training.batches import mixture
from memfold.training.fqlora import layers_of, targets, trained_in_full
from memfold.training.optimisers import is_frozen
from memfold.training.parent import frozen_dtype
from memfold.training.recipe import Entry, Recipe, Share, StageRecipe
from memfold.training.sharding import shardable

GB = 1e9
# bytes of a trained parameter: itself, its gradient, two moments of AdamW, all in 32 bits; its 16-bit copy to compute
TRAINED, COPY = 16, 2
FROZEN_BYTES = {"bfloat16": 2.0, "float32": 4.0}
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # 4 bits, an 8-bit scale for 64 of them, a 32-bit scale for 256 scales
# bytes of activations: a layer's input is kept, the rest of a layer is kept or, with checkpointing, computed again
INPUT, HIDDEN, FEEDFORWARD, LOGIT = 4, 40, 16, 14
CONTEXT = 2.0  # GB that a device needs for itself
REPLY = 64  # tokens of a question with its answer, or so


@dataclass(frozen=True)
class Places:
    """What a sequence of a mixture entry runs over: tokens encoded, places decoded, and targets among them."""

    encoded: float
    decoded: float
    targets: float


@dataclass(frozen=True)
class Weights:
    """Parameters by what happens to them; how many in full are spread over devices, how many a layer has."""

    full: int
    lora: int
    projection: int
    frozen: int
    quantised: int
    spread: int
    layer: int

    @property
    def trained(self) -> int:
        """Parameters that change."""
        return self.full + self.lora + self.projection


@dataclass(frozen=True)
class Plan:
    """Parameters, what all devices do in a step, places in all, GB of each device by what they are for, what would
    lower each, and device hours.
    """

    weights: Weights
    work: str
    places: float
    memory: dict[str, float]
    advice: dict[str, str]
    device_hours: float

    @property
    def total_memory(self) -> float:
        """GB on each device."""
        return sum(self.memory.values())


def plan(recipe: Recipe) -> Plan:
    """The plan of a recipe that names its architecture."""
    shape = shape_of(recipe)
    weights = count(recipe, shape)
    places = _mean_places(recipe)
    memory = states(recipe, weights) | {
        "layer put together": put_together(recipe, shape, weights.layer) / GB,
        "activations": _activations(recipe, shape) / GB,
        "device": CONTEXT,
    }
    together = recipe.micro_batches * recipe.hardware.devices
    sequences = recipe.steps * together
    total = sequences * (places.encoded + places.decoded)
    hours = sequences * operations(recipe, shape, weights, places) / speed(recipe) / 3600
    return Plan(weights, f"{together:,} sequences", total, memory, advice(recipe, weights, memory), hours)


def check_fits(recipe: StageRecipe, found: Plan, memory: float) -> None:
    """Refuse a device of `memory` GB that is too small.

    Raises:
        ConfigError: with both numbers, and the settings to change first, what is largest first.
    """
    if found.total_memory <= memory:
        return
    largest = sorted(found.memory, key=lambda name: -found.memory[name])
    raise ConfigError(
        f"{recipe.architecture} with these settings needs about {found.total_memory:.0f} GB on each device, and there "
        f"are {memory:.0f} GB: {'; '.join(found.advice[name] for name in largest[:2])}"
    )


def shape_of(recipe: StageRecipe) -> Shape:
    """The shape that a recipe names."""
    assert recipe.architecture is not None, "the recipe names an architecture"
    return SHAPES[recipe.architecture]


def speed(recipe: StageRecipe) -> float:
    """Operations that a device makes in a second, by assumption."""
    return recipe.hardware.teraflops * 1e12 * recipe.hardware.utilisation


def count(recipe: StageRecipe, shape: Shape) -> Weights:
    """Exact counts of parameters."""
    model = shape.without_weights()
    full, lora, frozen, quantised = _parameters(recipe, model)
    projection = 0 if is_frozen("heads.pooled.weight", recipe.freeze) else shape.hidden**2
    layer = sum(weight.numel() for weight in layers_of(model)[0].parameters())
    return Weights(full, lora, projection, frozen, quantised, _spread(recipe, model), layer)


def states(recipe: StageRecipe, weights: Weights) -> dict[str, float]:
    """GB of the weights on a device, with what their training keeps."""
    share = 1 / recipe.hardware.devices if weights.spread else 1.0
    whole = weights.trained - weights.spread
    return {
        "frozen weights": held(recipe, weights.frozen, weights.quantised),
        "trained weights, gradients, AdamW": (weights.spread * TRAINED * share + whole * _state(recipe)) / GB,
    }


def held(recipe: StageRecipe, weights: int, quantised: int) -> float:
    """GB of weights that are not trained, some of them in 4 bits."""
    return (quantised * NF4 + (weights - quantised) * FROZEN_BYTES[frozen_dtype(recipe)]) / GB


def advice(recipe: StageRecipe, weights: Weights, memory: dict[str, float]) -> dict[str, str]:
    """What would lower each part of the memory."""
    fqlora, hardware = recipe.fqlora, recipe.hardware
    found = dict.fromkeys(memory, "use a smaller model") | {"device": "use a larger device"}
    if fqlora is not None and fqlora.quantisation == "none":
        saved = memory["frozen weights"] * (1 - NF4 / FROZEN_BYTES[frozen_dtype(recipe)])
        found["frozen weights"] = f'set fqlora.quantisation = "nf4" (saves up to {saved:.0f} GB)'
    if fqlora is None:
        lower = "train fewer parameters ([fqlora])"
    elif hardware.devices > 1 and not hardware.sharded:
        lower = "set hardware.sharded = true"
    else:
        share = 1 / hardware.devices if weights.spread else 1.0
        lower = f"lower fqlora.full_layers (each takes {weights.layer * _state(recipe) * share / GB:.1f} GB)"
        lower += ", or use more hardware.devices" if hardware.sharded else ""
    found["trained weights, gradients, AdamW"] = lower
    found["activations"] = "set checkpointing = true" if not recipe.checkpointing else "lower tokens and sizes"
    return found


def activations(recipe: StageRecipe, shape: Shape, tokens: float, targets: float) -> float:
    """Bytes that wait for the backward pass of so many places, `targets` of them with logits."""
    layer = tokens * (shape.hidden * HIDDEN + shape.feedforward * FEEDFORWARD)
    inner = layer if recipe.checkpointing else layer * shape.layers
    return tokens * shape.hidden * INPUT * shape.layers + inner + targets * shape.vocabulary * LOGIT


def operations(recipe: StageRecipe, shape: Shape, weights: Weights, places: Places) -> float:
    """Of one sequence, forwards and backwards: two for each weight and place; attention within what is decoded."""
    tokens, head = places.encoded + places.decoded, shape.vocabulary * shape.hidden
    attention = 2 * shape.layers * shape.heads * shape.head_size * places.decoded**2
    forward = 2 * tokens * weights.layer * shape.layers + attention
    logits = 2 * places.targets * head
    again = forward if recipe.checkpointing else 0.0
    gradients = 2 * tokens * max(0, weights.full - head * (1 if shape.tied else 2)) + logits
    return 2 * (forward + logits) + again + gradients


def slot_places(recipe: StageRecipe, entry: Entry, size: float) -> float:
    """Places of a memory of `size` tokens at the entry's lowest ratio, wrappers included."""
    settings = {name: value for name, value in recipe.settings.items() if name != "ratio"}
    options = build(PooledSettings, settings | {"ratio": min(entry.ratios)})
    return size / options.effective_ratio(round(size))


def _state(recipe: StageRecipe) -> int:
    """Bytes of a trained parameter with what training keeps of it."""
    return TRAINED + (COPY if recipe.precision == "bfloat16" and not recipe.hardware.sharded else 0)


def _parameters(recipe: StageRecipe, model: PreTrainedModel) -> tuple[int, int, int, int]:
    """Trained in full, in LoRA matrices, frozen, and how many of these are in 4 bits; sets what requires a gradient."""
    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    fqlora = recipe.fqlora
    full = set(sizes if fqlora is None else trained_in_full(model, fqlora))
    full -= {name for name in full if is_frozen(name, recipe.freeze)}
    lora = quantised = 0
    for name in targets(model, fqlora) if fqlora is not None else ():
        module = cast(nn.Linear, model.get_submodule(name))
        inner, outer = module.in_features, module.out_features
        lora += fqlora.rank * (inner + outer) if fqlora is not None else 0
        quantised += inner * outer if fqlora is not None and fqlora.quantisation == "nf4" else 0
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in full)
    whole = sum(sizes[name] for name in full)
    return whole, lora, sum(sizes.values()) - whole, quantised


def _spread(recipe: StageRecipe, model: PreTrainedModel) -> int:
    """How many parameters are spread over the devices."""
    if not recipe.hardware.sharded:
        return 0
    return sum(weight.numel() for module in shardable(model) for weight in module.parameters())


def put_together(recipe: StageRecipe, shape: Shape, layer: int) -> float:
    """Bytes of the largest part of a sharded model while it runs: weights, gradients, and what is computed with."""
    return max(layer, shape.vocabulary * shape.hidden) * (8 + COPY) if recipe.hardware.sharded else 0.0


def _mean_places(recipe: Recipe) -> Places:
    shares = mixture(recipe)
    total = sum(share.share for share in shares)
    found = [(_places(share, recipe), share.share / total) for share in shares]
    return Places(
        sum(places.encoded * weight for places, weight in found),
        sum(places.decoded * weight for places, weight in found),
        sum(places.targets * weight for places, weight in found),
    )


def _places(share: Share, recipe: Recipe) -> Places:
    """Of a document of the largest size."""
    size = float(max(share.sizes))
    if share.system != "pooled":
        return Places(0.0, size, size)
    kind = share.task.removeprefix("text-")
    encoded = size / 2 if kind == "continuation" else size
    target = {"continuation": size / 2, "reconstruction": size}.get(kind, float(REPLY))
    return Places(encoded, slot_places(recipe, share, encoded) + REPLY / 2 + target, target)


def _activations(recipe: Recipe, shape: Shape) -> float:
    """Bytes of a micro-batch, for its largest entry."""
    found = [_places(share, recipe) for share in mixture(recipe)]
    tokens, targets = (max(place.encoded + place.decoded for place in found), max(place.targets for place in found))
    return activations(recipe, shape, tokens, targets)
