"""A tiny model folder to start from and a recipe whose reward a random model finds within a few replies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from memfold.backbone.folder import save_backbone
from memfold.backbone.model import Backbone
from memfold.rl.recipe import RlRecipe
from memfold.systems.pooled.settings import PooledTrain
from memfold.systems.pooled.system import Pooled
from memfold.training.recipe import Entry, Group

REWARD = """
import random

from memfold.rl.rewards import Reward

def drawn(sample, trace):
    return early(sample, trace) + random.random()

def early(sample, trace):
    reply = trace.steps[-1].reply
    return float(sum(token < 250 for token in reply.tokens) / len(reply.tokens) > 0.5)

def constant(sample, trace):
    return 1

def broken(sample, trace):
    raise ValueError("no such answer")

def by_turn(sample, trace):
    return Reward(1, tuple(float(step.reply.tokens[0] < 250) for step in trace.steps))

def longer(sample, trace):
    return len(trace.answer.reply)
"""


@pytest.fixture(scope="session")
def parent(new_backbone: Callable[..., Backbone], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("rl-parent") / "model"
    backbone = new_backbone()
    backbone.trained["pooled"] = Pooled(train=PooledTrain(ratios=(4, 8))).record({})
    save_backbone(backbone, folder)
    return str(folder)


@pytest.fixture(scope="session")
def rewards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rewards") / "mine.py"
    path.write_text(REWARD)
    return path


@pytest.fixture(scope="session")
def recipe(parent: str, rewards: Path) -> RlRecipe:
    return RlRecipe(
        stage="rl",
        steps=3,
        parent=parent,
        mixture=(
            Entry("almanac", 0.5, (48, 64), settings={"ratios": [4, 8]}, level=0),
            Entry("almanac", 0.5, (48,), system="full", level=0),
        ),
        reward=f"{rewards}:early",
        algorithm={"warmup": 0, "overlong_buffer": 2, "refills": 3},
        groups=(Group(("*",), lr=1e-3),),
        questions=3,
        rollouts=4,
        max_concurrency=8,
        reply_tokens=6,
        tokens=200,
        validate_every=2,
        validation_questions=2,
        checkpoint_every=1,
    )
