"""Estimates what a recipe for a published size needs, from its shape alone: parameters, positions, memory, hours.

Parameter counts are exact: they are taken from the model on the meta device.  Memory and hours are estimates by the
rules below; no weights are loaded.  Communication and memory fragmentation are not modelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from memfold.backbone.adapters import is_lora
from memfold.backbone.shapes import SHAPES, Shape
from memfold.core.errors import ConfigError
from memfold.core.footprint import Footprint
from memfold.training.batches import mixture
from memfold.training.fqlora import FQLoRA, layers_of, targets, trained_in_full
from memfold.training.optimisers import is_frozen
from memfold.training.parent import frozen_dtype
from memfold.training.recipe import Entry, Recipe, StageRecipe, SupervisedEntry
from memfold.training.sharding import shardable

GB = 1e9
# bytes of a trained parameter: weight, gradient and two AdamW moments in 32 bits; a 16-bit copy to compute with
TRAINED, COPY = 16, 2
FROZEN_BYTES = {"bfloat16": 2.0, "float32": 4.0}
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # 4 bits, an 8-bit scale for 64 of them, a 32-bit scale for 256 scales
# bytes of activations: layer inputs are kept; the rest is kept too, or recomputed with activation checkpointing
INPUT, HIDDEN, FEEDFORWARD, LOGIT = 4, 40, 16, 14
CONTEXT = 2.0  # GB that the device runtime takes
REPLY = 64  # tokens of a question with its answer, roughly


@dataclass(frozen=True)
class Positions:
    """Token positions of one sequence of a mixture entry: encoded, decoded, and how many of the decoded are targets."""

    encoded: float
    decoded: float
    targets: float


@dataclass(frozen=True)
class Weights:
    """Parameter counts by treatment; `spread` counts those sharded over devices, `layer` those of one layer."""

    full: int
    lora: int
    projection: int
    frozen: int
    quantised: int
    spread: int
    layer: int

    @property
    def trained(self) -> int:
        """Parameters that are trained."""
        return self.full + self.lora + self.projection


@dataclass(frozen=True)
class Plan:
    """The estimate: parameters, work of a step, total positions, GB on each device by use with advice, device hours."""

    weights: Weights
    work: str
    positions: float
    memory: dict[str, float]
    advice: dict[str, str]
    device_hours: float

    @property
    def total_memory(self) -> float:
        """GB on each device."""
        return sum(self.memory.values())


def plan(recipe: Recipe) -> Plan:
    """Return the plan of a recipe that names its architecture."""
    shape = shape_of(recipe)
    weights = count(recipe, shape)
    positions = _mean_positions(recipe)
    memory = states(recipe, weights) | {
        "unsharded layer": unsharded_bytes(recipe, shape, weights.layer) / GB,
        "activations": _activations(recipe, shape) / GB,
        "device": CONTEXT,
    }
    batch = recipe.micro_batches * recipe.hardware.devices
    sequences = recipe.steps * batch
    total = sequences * (positions.encoded + positions.decoded)
    hours = sequences * operations(recipe, shape, weights, positions) / speed(recipe) / 3600
    return Plan(weights, f"{batch:,} sequences", total, memory, advice(recipe, weights, memory), hours)


def check_fits(recipe: StageRecipe, estimate: Plan, memory: float) -> None:
    """Refuse a device of `memory` GB that is too small.

    Raises:
        ConfigError: with both numbers and the two settings that would save most.
    """
    if estimate.total_memory <= memory:
        return
    largest = sorted(estimate.memory, key=lambda name: -estimate.memory[name])
    raise ConfigError(
        f"{recipe.architecture} with these settings needs about {estimate.total_memory:.0f} GB on each device, "
        f"which has {memory:.0f} GB: {'; '.join(estimate.advice[name] for name in largest[:2])}"
    )


def shape_of(recipe: StageRecipe) -> Shape:
    """Return the shape of the architecture that a recipe names."""
    assert recipe.architecture is not None, "the recipe names an architecture"
    return SHAPES[recipe.architecture]


def speed(recipe: StageRecipe) -> float:
    """Return assumed operations per second of one device."""
    return recipe.hardware.teraflops * 1e12 * recipe.hardware.utilisation


def count(recipe: StageRecipe, shape: Shape) -> Weights:
    """Return exact parameter counts."""
    model = shape.without_weights()
    heads, beside = _added(recipe, shape, model)
    full, lora, frozen, quantised = _parameters(recipe, model, beside)
    projection = sum(size for name, size in heads.items() if not is_frozen(name, recipe.freeze))
    layer = sum(weight.numel() for weight in layers_of(model)[0].parameters())
    return Weights(full, lora, projection, frozen, quantised, _spread(recipe, model), layer)


def states(recipe: StageRecipe, weights: Weights) -> dict[str, float]:
    """Return GB on a device of the weights and their training state."""
    fraction = 1 / recipe.hardware.devices if weights.spread else 1.0
    whole = weights.trained - weights.spread
    return {
        "frozen weights": held(recipe, weights.frozen, weights.quantised),
        "trained weights, gradients, AdamW": (weights.spread * TRAINED * fraction + whole * _state(recipe)) / GB,
    }


def held(recipe: StageRecipe, weights: int, quantised: int) -> float:
    """Return GB of frozen weights, of which `quantised` are in 4 bits."""
    return (quantised * NF4 + (weights - quantised) * FROZEN_BYTES[frozen_dtype(recipe)]) / GB


def advice(recipe: StageRecipe, weights: Weights, memory: dict[str, float]) -> dict[str, str]:
    """Return the setting that would lower each part of the memory, of those that the recipe can have."""
    fqlora, hardware = recipe.fqlora, recipe.hardware
    sharded = replace(hardware, sharded=True)
    result = dict.fromkeys(memory, "use a smaller model") | {"device": "use a larger device"}
    if fqlora is not None and fqlora.quantisation == "none":
        saved = memory["frozen weights"] * (1 - NF4 / FROZEN_BYTES[frozen_dtype(recipe)])
        result["frozen weights"] = f'set fqlora.quantisation = "nf4" (saves up to {saved:.0f} GB)'
    if fqlora is None:
        fewer = _allows(recipe, fqlora=FQLoRA(full_layers=1, dropout=0.0))
        lower = "train fewer parameters ([fqlora])" if fewer else "use a smaller model"
    elif hardware.devices > 1 and not hardware.sharded and _allows(recipe, hardware=sharded):
        lower = "set hardware.sharded = true"
    else:
        fraction = 1 / hardware.devices if weights.spread else 1.0
        lower = f"lower fqlora.full_layers (each takes {weights.layer * _state(recipe) * fraction / GB:.1f} GB)"
        lower += ", or use more hardware.devices" if hardware.sharded else ""
    result["trained weights, gradients, AdamW"] = lower
    can_checkpoint = not recipe.activation_checkpointing and _allows(recipe, activation_checkpointing=True)
    result["activations"] = "set activation_checkpointing = true" if can_checkpoint else "lower tokens and sizes"
    return result


def _allows(recipe: StageRecipe, **changes: Any) -> bool:
    """Return whether the recipe can have these values of its keys."""
    try:
        replace(recipe, **changes)
    except ConfigError:
        return False
    return True


def activations(recipe: StageRecipe, shape: Shape, tokens: float, targets: float) -> float:
    """Return bytes kept for the backward pass of `tokens` positions, `targets` of which have logits."""
    layer = tokens * (shape.hidden * HIDDEN + shape.feedforward * FEEDFORWARD)
    inner = layer if recipe.activation_checkpointing else layer * shape.layers
    return tokens * shape.hidden * INPUT * shape.layers + inner + targets * shape.vocabulary * LOGIT


def operations(recipe: StageRecipe, shape: Shape, weights: Weights, positions: Positions) -> float:
    """Return operations of one sequence, forward and backward: two per weight and position, plus attention."""
    tokens, head = positions.encoded + positions.decoded, shape.vocabulary * shape.hidden
    attention = 2 * shape.layers * shape.heads * shape.head_size * positions.decoded**2
    forward = 2 * tokens * weights.layer * shape.layers + attention
    logits = 2 * positions.targets * head
    recomputed = forward if recipe.activation_checkpointing else 0.0
    gradients = 2 * tokens * max(0, weights.full - head * (1 if shape.tied else 2)) + logits
    return 2 * (forward + logits) + recomputed + gradients


def footprint(recipe: StageRecipe, entry: Entry, size: float) -> Footprint:
    """Return the cost of a document of `size` tokens, for the costliest system that an entry may draw."""
    return recipe.system(entry).costliest().footprint(size)


def _state(recipe: StageRecipe) -> int:
    """Return bytes of a trained parameter and its training state."""
    return TRAINED + (COPY if recipe.precision == "bfloat16" and not recipe.hardware.sharded else 0)


def _added(recipe: StageRecipe, shape: Shape, model: PreTrainedModel) -> tuple[dict[str, int], dict[str, int]]:
    """Return what the systems of a mixture add to a model, by name: heads, and LoRA matrices of adapters."""
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    modules = {name: (module.in_features, module.out_features) for name, module in linear.items()}
    added: dict[str, int] = {}
    for entry in mixture(recipe) if isinstance(recipe, Recipe) else recipe.mixture:
        system = recipe.system(entry)
        added |= system.parameters(shape.hidden) | system.beside(modules)
    beside = {name: size for name, size in added.items() if is_lora(name)}
    return {name: size for name, size in added.items() if name not in beside}, beside


def _parameters(recipe: StageRecipe, model: PreTrainedModel, beside: Mapping[str, int]) -> tuple[int, int, int, int]:
    """Return counts of full, LoRA, frozen, and quantised parameters; sets `requires_grad` of the model on the way.

    `beside` are the matrices of adapters of systems, within which the adapted weights have other names.
    """
    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    fqlora = recipe.fqlora
    full = set(sizes if fqlora is None else trained_in_full(model, fqlora))
    adapted = {name.partition(".lora_")[0] for name in beside}
    full -= {name for name in full if is_frozen(_within(name, adapted), recipe.freeze)}
    lora = sum(size for name, size in beside.items() if not is_frozen(name, recipe.freeze))
    quantised = 0
    for name in targets(model, fqlora) if fqlora is not None else ():
        module = cast(nn.Linear, model.get_submodule(name))
        inner, outer = module.in_features, module.out_features
        lora += fqlora.rank * (inner + outer) if fqlora is not None else 0
        quantised += inner * outer if fqlora is not None and fqlora.quantisation == "nf4" else 0
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in full)
    whole = sum(sizes[name] for name in full)
    return whole, lora, sum(sizes.values()) - whole, quantised


def _within(name: str, adapted: Set[str]) -> str:
    """Return the name of a weight in a model with adapters: that of an adapted module is in its base layer."""
    module, _, leaf = name.rpartition(".")
    return f"{module}.base_layer.{leaf}" if module in adapted else name


def _spread(recipe: StageRecipe, model: PreTrainedModel) -> int:
    """Return how many parameters are sharded over the devices."""
    if not recipe.hardware.sharded:
        return 0
    return sum(weight.numel() for module in shardable(model) for weight in module.parameters())


def unsharded_bytes(recipe: StageRecipe, shape: Shape, layer: int) -> float:
    """Return bytes of the largest unsharded module during a pass: weights, gradients, and the 16-bit copy."""
    return max(layer, shape.vocabulary * shape.hidden) * (8 + COPY) if recipe.hardware.sharded else 0.0


def _mean_positions(recipe: Recipe) -> Positions:
    entries = mixture(recipe)
    total = sum(entry.weight for entry in entries)
    weighted = [(_positions(entry, recipe), entry.weight / total) for entry in entries]
    return Positions(
        sum(positions.encoded * weight for positions, weight in weighted),
        sum(positions.decoded * weight for positions, weight in weighted),
        sum(positions.targets * weight for positions, weight in weighted),
    )


def _positions(entry: SupervisedEntry, recipe: Recipe) -> Positions:
    """Return the positions of a document of the largest size."""
    size = float(max(entry.sizes))
    if not entry.kind().capabilities.slots:
        return Positions(0.0, size, size)
    kind = entry.task.removeprefix("text-")
    encoded = size / 2 if kind == "continuation" else size
    target = {"continuation": size / 2, "reconstruction": size}.get(kind, float(REPLY))
    return Positions(encoded, footprint(recipe, entry, encoded).positions + REPLY / 2 + target, target)


def _activations(recipe: Recipe, shape: Shape) -> float:
    """Return bytes of a micro-batch, for its largest entry."""
    sequences = [(_positions(entry, recipe), entry.folded) for entry in mixture(recipe)]
    tokens = max(positions.decoded + (0 if folded else positions.encoded) for positions, folded in sequences)
    targets = max(positions.targets for positions, _ in sequences)
    return activations(recipe, shape, tokens, targets)
