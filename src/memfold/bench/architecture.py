"""Makes a model of a published shape with random weights, since speed does not depend on what a model has learned.

It has the tokenizer of the shipped model, whose vocabulary is smaller; this changes only the time of embedding look-up.
The replies of such a model have no meaning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfold.backbone.device import check_device
from memfold.backbone.named.table import TINY
from memfold.backbone.resolve import resolve_model
from memfold.backbone.shapes import SHAPES
from memfold.core.errors import ConfigError, unknown
from memfold.core.registry import DEFAULT, system_class

if TYPE_CHECKING:
    from memfold.backbone.model import Backbone


def check_architecture(name: str, device: str, force: bool) -> str:
    """Return the full name of an architecture; `7b` stands for the name with this ending.

    Raises:
        ConfigError: for an unknown name, or for a CPU, which takes far too long, without `force`.
    """
    found = next((known for known in SHAPES if known == name or known.endswith(f"-{name}")), None)
    if found is None:
        raise unknown("architecture", name, SHAPES)
    if device == "cpu" and not force:
        raise ConfigError(f"architecture {found!r} needs a GPU; give --device cuda, or --force to time it on a CPU")
    return found


def random_backbone(name: str, device: str, dtype: str) -> Backbone:
    """Create a model of a shape with random weights on its device; it encodes documents as in the paper.

    Raises:
        ConfigError: for a device that is not available, or is too small for the weights.
    """
    check_device(device)
    import torch
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    from memfold.backbone.model import DTYPES, Backbone

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
