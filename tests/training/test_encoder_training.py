"""A recipe with an encoder of its own: what it trains, keeps and refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from memfold.backbone.folder import load_backbone, save_backbone
from memfold.backbone.model import Backbone
from memfold.core.document import Document
from memfold.core.errors import CheckpointError, ConfigError
from memfold.systems.pooled.head import HEAD
from memfold.systems.pooled.settings import PooledFold
from memfold.systems.pooled.system import Pooled
from memfold.training import checkpoint
from memfold.training import tokenizer as tokenizer_training
from memfold.training.loop import prepare, step, train
from memfold.training.recipe import Recipe

TEXT = "Ada Brisk was born in Velm in 1893. She wrote the Long Ledger in a house on the river Tarn."
Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def small(new_backbone: Callable[..., Backbone], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model half as wide as the parent, with the same tokenizer."""
    folder = tmp_path_factory.mktemp("small") / "model"
    save_backbone(new_backbone("llama", seed=3, hidden=16), folder)
    return str(folder)


@pytest.fixture
def own(recipe: Recipe, small: str) -> Recipe:
    return replace(recipe, encoder=small, mixture=recipe.mixture[:2], steps=2)


def slots(backbone: Backbone) -> torch.Tensor:
    with torch.no_grad():
        (block,) = Pooled(PooledFold(ratio=4, window=0, mask="causal")).compress([Document("a", TEXT)], backbone)
    assert block.slots is not None
    return block.slots


def weights(backbone: Backbone) -> Weights:
    """Copies of the decoder weights, and of the encoder weights as `encoder.*`."""
    named = [*backbone.parameters(), *((f"encoder.{name}", w) for name, w in backbone.compressor.parameters())]
    return {name: weight.detach().clone() for name, weight in named}


def differing(one: Weights, other: Weights) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name, weight in one.items() if not torch.equal(weight, other[name])}


def test_a_new_encoder_and_its_projection_between_the_sizes(own: Recipe, small: str, tmp_path: Path) -> None:
    backbone = prepare(own, tmp_path).backbone
    encoder = backbone.compressor
    assert (encoder.hidden_size, backbone.hidden_size, HEAD in backbone.heads) == (16, 32, False)
    weight = encoder.heads[HEAD].weight
    assert isinstance(weight, torch.Tensor)
    torch.testing.assert_close(weight.T @ weight, torch.eye(16))  # preserves lengths and angles
    states = load_backbone(small).model.base_model(torch.tensor([backbone.encode(TEXT)[:4]])).last_hidden_state
    torch.testing.assert_close(slots(backbone)[0], encoder.heads[HEAD](states[0].mean(0)), atol=1e-5, rtol=1e-5)


def test_both_models_and_the_projection_learn_and_are_kept(own: Recipe, tmp_path: Path) -> None:
    before = weights(prepare(own, tmp_path / "new").backbone)
    trained = train(own, tmp_path / "run")
    after = weights(trained)
    # the output embeddings of an encoder have nothing to learn
    assert differing(before, after) == before.keys() - {"encoder.lm_head.weight"}
    again = load_backbone(tmp_path / "run" / "model")
    assert differing(weights(again), after) == set()
    assert torch.equal(slots(again), slots(trained))
    assert again.readable == trained.readable
    assert again.readable == (again.compressor.fingerprint(),)


def test_one_step_reaches_every_weight(own: Recipe, tmp_path: Path) -> None:
    run = prepare(own, tmp_path)
    before = weights(run.backbone)
    step(run)
    assert differing(before, weights(run.backbone)) == before.keys() - {"encoder.lm_head.weight"}


def test_a_frozen_encoder_stays_and_a_later_stage_keeps_it(own: Recipe, small: str, tmp_path: Path) -> None:
    first = train(replace(own, freeze=("encoder.*",)), tmp_path / "one")
    later = replace(own, parent=str(tmp_path / "one"), encoder=None, freeze=("encoder.*",))
    second = train(later, tmp_path / "two")
    assert differing(weights(first), weights(second)) >= {"model.norm.weight"}
    assert not {name for name in differing(weights(first), weights(second)) if name.startswith("encoder.")}
    source = dict(load_backbone(small).model.named_parameters())
    assert all(torch.equal(weight, weights(second)[f"encoder.{name}"]) for name, weight in source.items())
    with pytest.raises(ConfigError, match="already has an encoder; leave it out"):
        prepare(replace(later, encoder=small), tmp_path / "three")


def test_a_resumed_run_goes_on_with_its_encoder_bit_for_bit(own: Recipe, tmp_path: Path) -> None:
    longer = replace(own, steps=4)
    whole = weights(train(longer, tmp_path / "whole"))
    run = prepare(longer, tmp_path / "halves")
    for _ in range(2):
        step(run)
    checkpoint.save(run.folder, run.backbone, run.progress, run.optimisers.state_dict(), {})
    (tmp_path / "halves" / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    assert differing(whole, weights(train(longer, tmp_path / "halves", resume=True))) == set()


def test_the_fingerprint_of_a_memory_covers_the_encoder_and_its_head(own: Recipe, tmp_path: Path) -> None:
    save_backbone(prepare(own, tmp_path / "run").backbone, tmp_path / "model")
    stored = load_backbone(tmp_path / "model").readable
    for name, weight in (("model", "model.norm.weight"), ("heads", f"{HEAD}.weight")):
        path = tmp_path / "model" / "encoder" / f"{name}.safetensors"
        tensors = load_file(path)
        tensors[weight][0] += 1
        save_file(tensors, path, metadata={"format": "pt"})
        assert load_backbone(tmp_path / "model").readable != stored
        stored = load_backbone(tmp_path / "model").readable


def test_an_encoder_of_other_tokens_or_without_a_model_is_refused(
    own: Recipe, new_backbone: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tokenizer_training, "PAGES", 4)
    other = replace(new_backbone(hidden=16), tokenizer=tokenizer_training.train_tokenizer(400, 5, Pooled.tokens))
    save_backbone(other, tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"encoder .*other has another tokenizer: .*both must have the same"):
        prepare(replace(own, encoder=str(tmp_path / "other")), tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"no model in .*missing"):
        prepare(replace(own, encoder=str(tmp_path / "missing")), tmp_path / "run")


def test_a_damaged_encoder_is_one_line(own: Recipe, tmp_path: Path) -> None:
    save_backbone(prepare(own, tmp_path / "run").backbone, tmp_path / "model")
    (tmp_path / "model" / "encoder" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"encoder/model\.safetensors is not a safetensors file") as raised:
        load_backbone(tmp_path / "model")
    assert "\n" not in str(raised.value)
