"""A recipe of reinforcement learning for a published size made small, as `memfold.training.proof` does the others.

Its parent is what a supervised run would have left: two layers of the architecture with random weights, wrapper tokens,
projection, and the adapters of the recipe's fqlora, their matrices drawn at random so that they say something.  A rule
stands in for the judge, since no model is at hand: the share of vowels in a reply, in which no two replies are quite
alike.  Steps are of a few questions and short replies; all else stays.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from memfold.backbone.adapter import is_lora
from memfold.backbone.folder import load_backbone, save_backbone
from memfold.backbone.model import add_wrapper_tokens
from memfold.core.config import build
from memfold.rl.recipe import JudgeSettings, RlRecipe
from memfold.systems.pooled.head import add_head
from memfold.systems.pooled.settings import PooledSettings
from memfold.training.fqlora import adapt
from memfold.training.loop import trained_settings
from memfold.training.proof import small_fqlora, small_mixture, small_model

REWARD = '''"""A rule in the place of the judge."""


def vowels(sample, trace):
    reply = trace.answer.reply
    return sum(letter in "aeiou" for letter in reply) / max(len(reply), 1)
'''
QUESTIONS, ROLLOUTS, REPLY, BUFFER = 4, 4, 12, 4


def small(recipe: RlRecipe, folder: Path) -> RlRecipe:
    """The recipe for two steps on a small model, with what it needs in `folder`."""
    assert recipe.architecture is not None, "the recipe names an architecture"
    made = replace(
        recipe, steps=2, fqlora=small_fqlora(recipe), mixture=small_mixture(recipe.mixture, folder),
        questions=QUESTIONS, rollouts=ROLLOUTS, reply_tokens=REPLY, judge=JudgeSettings(),
        reward=f"{folder / 'rewards.py'}:vowels", algorithm=recipe.algorithm | {"overlong_buffer": BUFFER},
        validate_every=2, validation_questions=2, checkpoint_every=2, architecture=None,
    )  # fmt: skip
    if not (folder / "rewards.py").exists():
        (folder / "rewards.py").write_text(REWARD)
    return replace(made, parent=str(_parent(made, recipe.architecture, folder)))


def _parent(recipe: RlRecipe, architecture: str, folder: Path) -> Path:
    """A model folder as a run of stage sft leaves it."""
    where = folder / f"{architecture}-sft"
    if where.exists():
        return where
    base = small_model(folder / architecture, architecture)
    backbone = load_backbone(base)
    add_wrapper_tokens(backbone)
    add_head(backbone, build(PooledSettings, recipe.settings))
    torch.manual_seed(0)
    if recipe.fqlora is not None:
        adapt(backbone, recipe.fqlora, str(base.resolve()))
        for _, matrix in filter(lambda named: is_lora(named[0]), backbone.model.named_parameters()):
            torch.nn.init.normal_(matrix, std=0.05)
    backbone.chat_template = recipe.chat_template
    backbone.trained["pooled"] = trained_settings(recipe, recipe.mixture)
    save_backbone(backbone, where)
    return where
