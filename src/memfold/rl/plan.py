"""Estimates the needs of a recipe of reinforcement learning by the rules of `memfold.training.plan`.

Sampling time is the larger of two bounds: operations, and reading all weights for every token of a batch of replies.
Replies and notes are assumed to have the maximum length, and no group to be refilled: a refill costs as much again.
Not modelled: a judge, an engine beside the trainer, and that the last calls of a step are sampled in small batches.
"""

from __future__ import annotations

import math

from memfold.backbone.shapes import Shape
from memfold.core.footprint import Footprint
from memfold.rl.recipe import FROZEN, RlRecipe
from memfold.training import plan as rules
from memfold.training.plan import CONTEXT, GB, REPLY, Plan, Positions, Weights
from memfold.training.recipe import Entry

CACHED = 4 * 9 / 8  # bytes of a key or a value: 32 bits, with headroom for growth
GATHERED = 4  # bytes of a trained weight
# bytes moved per weight in a pass: the weight is read, and its 16-bit copy written and read
TRAINED_READ, QUANTISED_READ, FROZEN_READ = 8.0, 4.5, 2.0


def plan(recipe: RlRecipe) -> Plan:
    """Return the plan of a recipe that names its architecture."""
    shape = rules.shape_of(recipe)
    weights = rules.count(recipe, shape)
    memory = _memory(recipe, shape, weights)
    total = sum(entry.weight for entry in recipe.mixture)
    questions = [(entry, recipe.steps * recipe.questions * entry.weight / total) for entry in recipe.mixture]
    positions = sum(count * (max(entry.sizes) + _group(recipe, entry).decoded) for entry, count in questions)
    seconds = sum(count * _seconds(recipe, entry, shape, weights) for entry, count in questions)
    advice = rules.advice(recipe, weights, memory) | {
        "keys and values of replies": "lower max_concurrency",
        "unsharded layers while sampling": "lower fqlora.full_layers",
    }
    work = f"{recipe.questions:,} questions x {recipe.rollouts} replies of at most {recipe.reply_tokens} tokens"
    return Plan(weights, work, positions, memory, advice, seconds / 3600)


def _memory(recipe: RlRecipe, shape: Shape, weights: Weights) -> dict[str, float]:
    """Return GB on a device: what is always allocated, and the larger of what sampling and updating need."""
    copy = rules.held(recipe, weights.full + weights.lora + weights.frozen, weights.quantised)
    read = max(_call(recipe, entry) for entry in recipe.mixture)
    values = 2 * shape.layers * shape.key_heads * shape.head_size * CACHED
    sampling = {
        "unsharded layers while sampling": weights.spread * GATHERED / GB,
        "keys and values of replies": recipe.max_concurrency * (read + recipe.reply_tokens) * values / GB,
    }
    compressed = max(max(entry.sizes) for entry in recipe.mixture) if recipe.memory != FROZEN else 0
    tokens = max(recipe.tokens, read + recipe.reply_tokens)
    targets = tokens * recipe.reply_tokens / (read / recipe.rollouts + recipe.reply_tokens)
    updating = {
        "unsharded layer": rules.unsharded_bytes(recipe, shape, weights.layer) / GB,
        "activations": rules.activations(recipe, shape, tokens + compressed, targets) / GB,
    }
    needs: dict[str, float] = max((sampling, updating), key=_total)  # they alternate
    return rules.states(recipe, weights) | {
        "encoder": copy if recipe.needs_encoder else 0.0,
        "the parent, for the KL": copy if recipe.options.beta else 0.0,
        **needs,
        "device": CONTEXT,
    }


def _total(needs: dict[str, float]) -> float:
    return sum(needs.values())


def _read(recipe: RlRecipe, entry: Entry) -> float:
    """Return positions of the memory or document of a question, at its largest size, and of the question."""
    return REPLY / 2 + _footprint(recipe, entry).positions


def _call(recipe: RlRecipe, entry: Entry) -> float:
    """Return the positions that one call reads, at most."""
    most = recipe.system(entry).capabilities.call_positions
    return _read(recipe, entry) if most is None else min(REPLY / 2 + most, _read(recipe, entry))


def _written(recipe: RlRecipe, entry: Entry) -> float:
    """Return the tokens that a trajectory writes, at most."""
    return recipe.reply_tokens + _footprint(recipe, entry).written


def _footprint(recipe: RlRecipe, entry: Entry) -> Footprint:
    return rules.footprint(recipe, entry, float(max(entry.sizes)))


def _group(recipe: RlRecipe, entry: Entry) -> Positions:
    """Return positions of the update for one question: its memory or document once, then every reply.

    Where notes are written, the prompts of trajectories differ, and each reads on its own.
    """
    footprint = _footprint(recipe, entry)
    replies = recipe.rollouts * _written(recipe, entry)
    read = _read(recipe, entry) * (recipe.rollouts if footprint.written else 1)
    return Positions(footprint.encoded if recipe.memory != FROZEN else 0.0, read + replies, replies)


def _seconds(recipe: RlRecipe, entry: Entry, shape: Shape, weights: Weights) -> float:
    """Return device seconds for one question: fold, sample, update."""
    speed, hardware = rules.speed(recipe), recipe.hardware
    body, head = weights.layer * shape.layers, shape.vocabulary * shape.hidden
    fold = 2 * body * max(entry.sizes) / speed
    written = _written(recipe, entry)
    computing = 2 * recipe.rollouts * (_read(recipe, entry) + written) * (body + head) / speed
    batch = min(recipe.max_concurrency, math.ceil(recipe.questions / hardware.devices) * recipe.rollouts)
    moved = TRAINED_READ * weights.trained + QUANTISED_READ * weights.quantised
    moved += FROZEN_READ * (weights.frozen - weights.quantised)
    passes = recipe.rollouts * written / batch
    reading = passes * moved / (hardware.bandwidth * 1e12 * hardware.utilisation)
    update = rules.operations(recipe, shape, weights, _group(recipe, entry)) / speed
    return fold + max(computing, reading) + update
