"""What several tests of memory systems share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from memfold.backbone.adapters import is_lora
from memfold.backbone.model import Backbone
from memfold.systems.kvbank.system import Kvbank

MakeBackbone = Callable[..., Backbone]


@pytest.fixture(scope="module")
def trained(new_backbone: MakeBackbone) -> Backbone:
    """A model with all parts, whose adapters, memory token and gate have an effect; not to be changed."""
    backbone = new_backbone()
    backbone.heads.clear()
    Kvbank.of({"compressor_rank": 4, "reasoner_rank": 4, "gate_rank": 4}).prepare(backbone)
    torch.manual_seed(1)
    for name, parameter in backbone.parameters():
        if is_lora(name) or name.startswith("heads."):
            torch.nn.init.normal_(parameter, std=0.2)
    return backbone
