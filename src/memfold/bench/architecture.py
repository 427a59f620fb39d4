"""A model of a published shape with random weights: how fast something is does not depend on what it has learned.

Its tokenizer is that of the shipped model: tokens are drawn from fewer words than the vocabulary has, which changes no
time but that of the lookup.  Left out: anything that such a model says.
"""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from memfold.backbone.model import DTYPES, Backbone
from memfold.backbone.resolve import TINY, resolve_model
from memfold.backbone.shapes import SHAPES
from memfold.core.errors import ConfigError, unknown
from memfold.core.registry import DEFAULT, system_class


def check_architecture(name: str, device: str, force: bool) -> str:
    """The whole name of an architecture; `7b` stands for the one that ends so.

    Raises:
        ConfigError: for an unknown name, or for a CPU, which takes far too long, without `force`.
    """
    found = next((known for known in SHAPES if known == name or known.endswith(f"-{name}")), None)
    if found is None:
        raise unknown("architecture", name, SHAPES)
    if device == "cpu" and not force:
        raise ConfigError(f"architecture {found!r} is timed on a GPU; give --device cuda, or --force to wait for a CPU")
    return found


def random_backbone(name: str, device: str, dtype: str) -> Backbone:
    """Random weights of that shape, made where they are used, that encode as the paper's do.

    Raises:
        ConfigError: for a device that is not there, or too small for the weights.
    """
    try:
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(
                SHAPES[name].config(), dtype=DTYPES[dtype], attn_implementation="sdpa"
            )
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {device!r} cannot hold {name}: {str(error).splitlines()[0]}") from error
    tokenizer = PreTrainedTokenizerFast.from_pretrained(resolve_model(TINY))
    backbone = Backbone(f"{name} with random weights", model.eval(), tokenizer, stored_fingerprint="random")
    system = system_class(DEFAULT).published()
    system.prepare(backbone)
    backbone.trained = {DEFAULT: system.record({})}
    return backbone
