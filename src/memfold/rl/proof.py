"""Shrinks a recipe of reinforcement learning for a published size, as `memfold.training.proof` does for the others.

The parent is like the result of a supervised run: two layers of the architecture with random weights, wrapper tokens,
projection, and the adapters of the recipe's fqlora and of its systems with random matrices, so that they have an
effect.  A rule replaces the reward, since no judge model is available and random weights find no answer: the fraction
of vowels in a reply, which hardly ever ties.  Steps have few questions and short answers; everything else stays.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from memfold.backbone.adapters import is_lora
from memfold.backbone.folder import load_backbone, save_backbone
from memfold.rl.recipe import JudgeSettings, RlRecipe
from memfold.training.fqlora import adapt
from memfold.training.loop import trained_records
from memfold.training.proof import small_fqlora, small_mixture, small_model

REWARD = '''"""A rule that replaces the reward."""


def vowels(sample, trace):
    reply = trace.answer.reply
    return sum(letter in "aeiou" for letter in reply) / max(len(reply), 1)
'''
QUESTIONS, UPDATES, ROLLOUTS, REPLY, BUFFER = 4, 2, 4, 12, 4


def small(recipe: RlRecipe, folder: Path) -> RlRecipe:
    """Return the recipe for two steps on a small model, with its files in `folder`."""
    assert recipe.architecture is not None, "the recipe names an architecture"
    reward = folder / "rewards.py"
    shorter = {"overlong_buffer": BUFFER} if recipe.options.overlong_buffer else {}
    shrunk = replace(
        recipe,
        architecture=None,
        steps=2,
        fqlora=small_fqlora(recipe),
        mixture=small_mixture(recipe.mixture, folder),
        questions=QUESTIONS,
        updates=min(recipe.updates, UPDATES),
        rollouts=ROLLOUTS,
        reply_tokens=REPLY,
        reward=f"{reward}:vowels",
        judge=JudgeSettings(),
        algorithm=recipe.algorithm | shorter,
        validate_every=2,
        validation_questions=2,
        checkpoint_every=2,
    )
    if not reward.exists():
        reward.write_text(REWARD)
    return replace(shrunk, parent=str(_parent(shrunk, recipe.architecture, folder)))


def _parent(recipe: RlRecipe, architecture: str, folder: Path) -> Path:
    """Return a model folder like that of a finished run of stage sft."""
    parent = folder / f"{architecture}-{'-'.join(sorted({entry.system for entry in recipe.mixture}))}-sft"
    if parent.exists():
        return parent
    base = small_model(folder / architecture, architecture)
    backbone = load_backbone(base)
    for entry in recipe.mixture:
        recipe.system(entry).prepare(backbone)
    torch.manual_seed(0)
    if recipe.fqlora is not None:
        adapt(backbone, recipe.fqlora, str(base.resolve()))
    for _, matrix in filter(lambda named: is_lora(named[0]), backbone.model.named_parameters()):
        torch.nn.init.normal_(matrix, std=0.05)
    backbone.chat_template = recipe.chat_template
    backbone.trained = trained_records(recipe, recipe.mixture)
    save_backbone(backbone, parent)
    return parent
