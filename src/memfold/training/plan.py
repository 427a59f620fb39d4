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
from memfold.training.recipe import Recipe, Share
from memfold.training.sharding import shardable

GB = 1e9
# bytes of a trained parameter: itself, its gradient, two moments of AdamW, all in 32 bits; its 16-bit copy to compute
TRAINED, COPY = 16, 2
FROZEN = {"bfloat16": 2.0, "float32": 4.0}
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
class Plan:
    """Parameters, places in all, bytes per device by what they are for (in GB), and hours of one device."""

    full: int
    lora: int
    projection: int
    frozen: int
    places: float
    memory: dict[str, float]
    layer_states: float  # GB that one layer in full takes on a device
    device_hours: float

    @property
    def trained(self) -> int:
        """Parameters that change."""
        return self.full + self.lora + self.projection

    @property
    def total_memory(self) -> float:
        """GB on each device."""
        return sum(self.memory.values())


def plan(recipe: Recipe) -> Plan:
    """The plan of a recipe that names its architecture."""
    assert recipe.architecture is not None, "the recipe names an architecture"
    shape = SHAPES[recipe.architecture]
    model = shape.without_weights()
    full, lora, frozen, quantised = _parameters(recipe, model)
    projection = 0 if is_frozen("heads.pooled.weight", recipe.freeze) else shape.hidden**2
    spread = _spread(recipe, model)
    places = _mean_places(recipe)
    layer = sum(weight.numel() for weight in layers_of(model)[0].parameters())
    states = TRAINED + (COPY if recipe.precision == "bfloat16" and not recipe.hardware.sharded else 0)
    share = 1 / recipe.hardware.devices if spread else 1.0
    memory = {
        "frozen weights": (quantised * NF4 + (frozen - quantised) * FROZEN[recipe.precision]) / GB,
        "trained weights, gradients, AdamW": (
            spread * TRAINED * share + (full + lora + projection - spread) * states
        ) / GB,
        "layer put together": _gathered(recipe, shape, layer) / GB,
        "activations": _activations(recipe, shape, places) / GB,
        "device": CONTEXT,
    }  # fmt: skip
    sequences = recipe.steps * recipe.micro_batches * recipe.hardware.devices
    operations = sequences * _operations(recipe, shape, layer * shape.layers, full, places)
    hours = operations / (recipe.hardware.teraflops * 1e12 * recipe.hardware.utilisation) / 3600
    total = sequences * (places.encoded + places.decoded)
    return Plan(full, lora, projection, frozen, total, memory, layer * states * share / GB, hours)


def check_fits(recipe: Recipe, found: Plan, memory: float) -> None:
    """Refuse a device of `memory` GB that is too small.

    Raises:
        ConfigError: with both numbers, and the setting to change first.
    """
    if found.total_memory <= memory:
        return
    raise ConfigError(
        f"{recipe.architecture} with these settings needs about {found.total_memory:.0f} GB on each device, and there "
        f"are {memory:.0f} GB: {_advice(recipe, found)}"
    )


def _advice(recipe: Recipe, found: Plan) -> str:
    """The settings that would help, what is largest first."""
    fqlora, hardware = recipe.fqlora, recipe.hardware
    advice = {"frozen weights": "use a smaller model", "device": "use a larger device"}
    if fqlora is not None and fqlora.quantisation == "none":
        saved = found.memory["frozen weights"] * (1 - NF4 / FROZEN[recipe.precision])
        advice["frozen weights"] = f'set fqlora.quantisation = "nf4" (saves up to {saved:.0f} GB)'
    if fqlora is None:
        states = "train fewer parameters ([fqlora])"
    elif hardware.devices > 1 and not hardware.sharded:
        states = "set hardware.sharded = true"
    else:
        states = f"lower fqlora.full_layers (each takes {found.layer_states:.1f} GB)"
        states += ", or use more hardware.devices" if hardware.sharded else ""
    advice["trained weights, gradients, AdamW"] = states
    advice["activations"] = "set checkpointing = true" if not recipe.checkpointing else "lower tokens and sizes"
    advice["layer put together"] = "use a smaller model"
    largest = sorted(found.memory, key=lambda name: -found.memory[name])
    return "; ".join(advice[name] for name in largest[:2])


def _parameters(recipe: Recipe, model: PreTrainedModel) -> tuple[int, int, int, int]:
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


def _spread(recipe: Recipe, model: PreTrainedModel) -> int:
    """How many parameters are spread over the devices."""
    if not recipe.hardware.sharded:
        return 0
    return sum(weight.numel() for module in shardable(model) for weight in module.parameters())


def _gathered(recipe: Recipe, shape: Shape, layer: int) -> float:
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
    settings = {name: value for name, value in recipe.settings.items() if name != "ratio"}
    options = build(PooledSettings, settings | {"ratio": min(share.ratios)})
    kind = share.task.removeprefix("text-")
    encoded = size / 2 if kind == "continuation" else size
    target = {"continuation": size / 2, "reconstruction": size}.get(kind, float(REPLY))
    slots = encoded / options.effective_ratio(round(encoded))
    return Places(encoded, slots + REPLY / 2 + target, target)


def _activations(recipe: Recipe, shape: Shape, places: Places) -> float:
    """Bytes that wait for the backward pass of a micro-batch, for its largest entry."""
    found = [_places(share, recipe) for share in mixture(recipe)]
    tokens = max(place.encoded + place.decoded for place in found)
    logits = max(place.targets for place in found) * shape.vocabulary * LOGIT
    layer = tokens * (shape.hidden * HIDDEN + shape.feedforward * FEEDFORWARD)
    inner = layer if recipe.checkpointing else layer * shape.layers
    return tokens * shape.hidden * INPUT * shape.layers + inner + logits


def _operations(recipe: Recipe, shape: Shape, body: int, full: int, places: Places) -> float:
    """Of one sequence, forwards and backwards: two for each weight and place; attention within what is decoded."""
    tokens, head = places.encoded + places.decoded, shape.vocabulary * shape.hidden
    attention = 2 * shape.layers * shape.heads * shape.head_size * places.decoded**2
    forward = 2 * tokens * body + attention
    logits = 2 * places.targets * head
    again = forward if recipe.checkpointing else 0.0
    weights = 2 * tokens * max(0, full - head * (1 if shape.tied else 2)) + logits
    return 2 * (forward + logits) + again + weights
