"""The model that a recipe starts from: a run or model folder, or a published model by its Hugging Face id."""

from __future__ import annotations

import re
from pathlib import Path

from memfold.backbone.folder import load_backbone
from memfold.backbone.model import START, Backbone, add_wrapper_tokens
from memfold.backbone.resolve import model_folder
from memfold.backbone.shapes import SHAPES
from memfold.core.errors import ConfigError
from memfold.training.recipe import Recipe, StageRecipe

RUNS = "runs/"
IDENTIFIER = re.compile(r"[A-Za-z][\w.-]*/[\w.-]+")


def load_parent(recipe: Recipe, device: str) -> Backbone:
    """The model, with the tokens that wrap slots.

    Raises:
        CheckpointError: when there is none.
        ConfigError: when it is not of the architecture that the recipe names.
    """
    backbone = load_backbone(parent_of(recipe), device, frozen_dtype(recipe), merged=recipe.fqlora is None)
    check_architecture(recipe, backbone)
    if START not in backbone.tokenizer.get_vocab():
        add_wrapper_tokens(backbone)
    return backbone


def parent_of(recipe: Recipe) -> str:
    """Where the weights are: a folder, or the Hugging Face id of a recipe that says which architecture that has."""
    name = str(recipe.parent)
    if recipe.architecture is not None and IDENTIFIER.fullmatch(name) and not name.startswith(RUNS):
        return name if not Path(name).exists() else str(model_folder(Path(name).resolve()))
    return str(model_folder(Path(name).resolve() if recipe.fqlora is not None else name))


def frozen_dtype(recipe: StageRecipe) -> str:
    """Of weights that are not trained; those that are stay float32, whatever they are multiplied in."""
    return recipe.precision if recipe.fqlora is not None else "float32"


def check_architecture(recipe: StageRecipe, backbone: Backbone) -> None:
    """Refuse a model that is not of the architecture that the recipe names.

    Raises:
        ConfigError: with both shapes.
    """
    if recipe.architecture is None:
        return
    config, shape = backbone.model.config, SHAPES[recipe.architecture]
    found = (config.num_hidden_layers, config.hidden_size)
    if found != (shape.layers, shape.hidden):
        raise ConfigError(
            f"the recipe is for {recipe.architecture} ({shape.layers} layers of {shape.hidden}), its parent "
            f"{recipe.parent} has {found[0]} of {found[1]}; name another parent or another architecture"
        )
