"""Finds the model that a recipe starts from: a run folder, a model folder, `tiny`, or a Hugging Face id."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from memfold.backbone.resolve import model_folder
from memfold.backbone.shapes import SHAPES
from memfold.core.errors import ConfigError
from memfold.training.recipe import StageRecipe

if TYPE_CHECKING:
    from memfold.backbone.model import Backbone

RUNS = "runs/"
IDENTIFIER = re.compile(r"[A-Za-z][\w.-]*/[\w.-]+")


def parent_of(recipe: StageRecipe) -> str:
    """Return the folder of the weights, or a Hugging Face id if the recipe also names the architecture."""
    name = str(recipe.parent)
    if recipe.architecture is not None and IDENTIFIER.fullmatch(name) and not name.startswith(RUNS):
        return name if not Path(name).exists() else str(model_folder(name).resolve())
    folder = model_folder(name)
    return str(folder.resolve() if recipe.fqlora is not None else folder)


def frozen_dtype(recipe: StageRecipe) -> str:
    """Return the dtype of frozen weights; trained weights are always float32, with autocast to `precision`."""
    return recipe.precision if recipe.fqlora is not None else "float32"


def check_architecture(recipe: StageRecipe, backbone: Backbone) -> None:
    """Refuse a model whose architecture is not the one that the recipe names.

    Raises:
        ConfigError: with both shapes.
    """
    if recipe.architecture is None:
        return
    config, shape = backbone.model.config, SHAPES[recipe.architecture]
    layers, hidden = config.num_hidden_layers, config.hidden_size
    if (layers, hidden) != (shape.layers, shape.hidden):
        raise ConfigError(
            f"the recipe is for {recipe.architecture} ({shape.layers} layers of {shape.hidden}), its parent "
            f"{recipe.parent} has {layers} of {hidden}; name another parent or another architecture"
        )
