"""What a recipe of reinforcement learning for a published size will take, by the rules of `memfold.training.plan`.

Sampling is bounded twice: by operations, and by reading all weights for every token of a batch of replies; the slower
one counts.  Replies are taken to be as long as they may be, groups to be kept as they are drawn: refills cost as much
again.  Left out: a judge, and an engine beside the trainer.
"""

from __future__ import annotations

import math

from memfold.backbone.shapes import Shape
from memfold.rl.recipe import FROZEN, RlRecipe
from memfold.training import plan as rules
from memfold.training.plan import CONTEXT, GB, REPLY, Places, Plan, Weights
from memfold.training.recipe import Entry

KEPT = 4 * 9 / 8  # bytes of a key or a value: what flows between layers is in 32 bits; room to grow into
TOGETHER = 4  # of a weight that is trained
# bytes moved for a weight in a pass: itself, and what it is multiplied in, written and read
TRAINED_READ, QUANTISED_READ, FROZEN_READ = 8.0, 4.5, 2.0


def plan(recipe: RlRecipe) -> Plan:
    """The plan of a recipe that names its architecture."""
    shape = rules.shape_of(recipe)
    weights = rules.count(recipe, shape)
    memory = _memory(recipe, shape, weights)
    shares = sum(entry.share for entry in recipe.mixture)
    asked = [(entry, recipe.steps * recipe.questions * entry.share / shares) for entry in recipe.mixture]
    places = sum(count * (max(entry.sizes) + _group(recipe, entry).decoded) for entry, count in asked)
    seconds = sum(count * _seconds(recipe, entry, shape, weights) for entry, count in asked)
    advice = rules.advice(recipe, weights, memory) | {
        "keys and values of replies": "lower places",
        "layers together while sampling": "lower fqlora.full_layers",
    }
    work = f"{recipe.questions:,} questions x {recipe.rollouts} replies of at most {recipe.reply_tokens} tokens"
    return Plan(weights, work, places, memory, advice, seconds / 3600)


def _memory(recipe: RlRecipe, shape: Shape, weights: Weights) -> dict[str, float]:
    """GB on a device: what is always there, and what the hungrier of sampling and updating needs besides."""
    copy = rules.held(recipe, weights.full + weights.lora + weights.frozen, weights.quantised)
    read = max(_read(recipe, entry) for entry in recipe.mixture)
    values = 2 * shape.layers * shape.key_heads * shape.head_size * KEPT
    sampling = {
        "layers together while sampling": weights.spread * TOGETHER / GB,
        "keys and values of replies": recipe.places * (read + recipe.reply_tokens) * values / GB,
    }
    compressed = max(max(entry.sizes) for entry in recipe.mixture) if recipe.memory != FROZEN else 0
    tokens = max(recipe.tokens, read + recipe.reply_tokens)
    targets = tokens * recipe.reply_tokens / (read / recipe.rollouts + recipe.reply_tokens)
    updating = {
        "layer put together": rules.put_together(recipe, shape, weights.layer) / GB,
        "activations": rules.activations(recipe, shape, tokens + compressed, targets) / GB,
    }
    needs: dict[str, float] = max((sampling, updating), key=_total)  # they never meet
    return rules.states(recipe, weights) | {
        "encoder": copy if recipe.memory == FROZEN else 0.0,
        "the parent, to stay near it": copy if recipe.options.beta else 0.0,
        **needs,
        "device": CONTEXT,
    }


def _total(needs: dict[str, float]) -> float:
    return sum(needs.values())


def _read(recipe: RlRecipe, entry: Entry) -> float:
    """Places of what a question is asked about, and of the question, of the largest size."""
    size = float(max(entry.sizes))
    return REPLY / 2 + (size if entry.system != "pooled" else rules.slot_places(recipe, entry, size))


def _group(recipe: RlRecipe, entry: Entry) -> Places:
    """What the update runs over for one question: what it is about once, then every reply."""
    replies = float(recipe.rollouts * recipe.reply_tokens)
    compressed = recipe.memory != FROZEN and entry.system == "pooled"
    return Places(float(max(entry.sizes)) if compressed else 0.0, _read(recipe, entry) + replies, replies)


def _seconds(recipe: RlRecipe, entry: Entry, shape: Shape, weights: Weights) -> float:
    """Of a device, for one question: fold, sample, update."""
    speed, hardware = rules.speed(recipe), recipe.hardware
    body, head = weights.layer * shape.layers, shape.vocabulary * shape.hidden
    fold = 2 * body * max(entry.sizes) / speed
    computing = 2 * recipe.rollouts * (_read(recipe, entry) + recipe.reply_tokens) * (body + head) / speed
    together = min(recipe.places, math.ceil(recipe.questions / hardware.devices) * recipe.rollouts)
    moved = TRAINED_READ * weights.trained + QUANTISED_READ * weights.quantised
    moved += FROZEN_READ * (weights.frozen - weights.quantised)
    passes = recipe.rollouts * recipe.reply_tokens / together
    reading = passes * moved / (hardware.bandwidth * 1e12 * hardware.utilisation)
    update = rules.operations(recipe, shape, weights, _group(recipe, entry)) / speed
    return fold + max(computing, reading) + update
