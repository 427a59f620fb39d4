"""Small models are loaded directly; the result must be that of `from_pretrained`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from memfold.backbone import weights
from memfold.backbone.model import Backbone
from memfold.backbone.weights import load_weights
from memfold.core.errors import CheckpointError

MakeBackbone = Callable[..., Backbone]


@pytest.fixture(params=["qwen3", "qwen2", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, new_backbone: MakeBackbone) -> Path:
    """A model with tied embeddings (Qwen) or without, and with settings of its own for generation."""
    model = new_backbone(request.param).model
    assert model.generation_config is not None
    model.generation_config.max_new_tokens = 77
    model.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_small_models_are_those_of_from_pretrained(
    folder: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(5)
    small, after = load_weights(folder, dtype), torch.rand(3)
    monkeypatch.setattr(weights, "SMALL", 0)
    torch.manual_seed(5)
    usual = load_weights(folder, dtype)
    assert torch.equal(after, torch.rand(3)), "loading draws no random numbers"
    for own, other in (
        (small.state_dict(), usual.state_dict()),
        (dict(small.named_buffers()), dict(usual.named_buffers())),
    ):
        assert own.keys() == other.keys()
        assert all(torch.equal(own[name], other[name]) and own[name].dtype == other[name].dtype for name in own)
    assert small.config.to_dict() == usual.config.to_dict()
    assert small.generation_config is not None
    assert usual.generation_config is not None
    assert small.generation_config.to_dict() == usual.generation_config.to_dict()
    assert not small.training
    assert not usual.training
    tied = [model.get_input_embeddings().weight is model.get_output_embeddings().weight for model in (small, usual)]
    assert tied == [small.config.tie_word_embeddings] * 2
    assert [name for name, _ in small.named_parameters()] == [name for name, _ in usual.named_parameters()]


def test_weights_of_other_shapes_are_named(folder: Path) -> None:
    file = folder / "model.safetensors"
    stored = load_file(file)
    name = next(name for name in stored if name.endswith("q_proj.weight"))
    save_file(stored | {name: torch.zeros(3, 3), "more": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match=f"unexpected: more; of the wrong shape: {name}"):
        load_weights(folder, torch.float32)
    save_file({key: weight for key, weight in stored.items() if key != name}, file)
    with pytest.raises(CheckpointError, match=f"missing: {name}"):
        load_weights(folder, torch.float32)
