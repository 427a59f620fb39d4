"""A tiny model folder to start from and a recipe that trains it in seconds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from transformers import PreTrainedTokenizerFast

from memfold.backbone.folder import save_backbone
from memfold.backbone.model import Backbone
from memfold.training import scratch
from memfold.training.recipe import Group, Recipe, SupervisedEntry


@pytest.fixture
def known_tokenizer(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model from scratch gets the session's tokenizer."""
    monkeypatch.setattr(scratch, "train_tokenizer", lambda vocabulary, seed, tokens: tokenizer)


@pytest.fixture(scope="session")
def parent(new_backbone: Callable[..., Backbone], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("parent") / "model"
    save_backbone(new_backbone(), folder)
    return str(folder)


@pytest.fixture(scope="session")
def plain_parent(new_backbone: Callable[..., Backbone], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that no system has added a head to."""
    folder = tmp_path_factory.mktemp("plain-parent") / "model"
    backbone = new_backbone()
    backbone.heads.clear()
    save_backbone(backbone, folder)
    return str(folder)


@pytest.fixture(scope="session")
def recipe(parent: str) -> Recipe:
    """Three kinds of batches and both optimisers, in float32."""
    return Recipe(
        stage="cpt1",
        steps=4,
        parent=parent,
        mixture=(
            SupervisedEntry("group", 0.4, (8,), settings={"ratios": [8]}, samples=4, level=1),
            SupervisedEntry("almanac", 0.3, (48, 64), settings={"ratios": [4, 8]}, samples=3, level=0),
            SupervisedEntry("almanac", 0.3, (48,), system="full", samples=3, level=0),
        ),
        groups=(Group(("*proj.weight",), "muon", 0.01), Group(("*",), lr=3e-3)),
        tokens=100,
        micro_batches=2,
        precision="float32",
        validate_every=2,
        validation_batches=1,
        checkpoint_every=2,
    )
