"""A recipe with an encoder of its own: what it trains, keeps and refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from memfold.backbone.model import Backbone, load_backbone, save_backbone
from memfold.core.document import Document
from memfold.core.errors import CheckpointError, ConfigError
from memfold.systems.pooled.head import HEAD
from memfold.systems.pooled.system import Pooled
from memfold.training import checkpoint
from memfold.training import tokenizer as tokenizer_training
from memfold.training.loop import prepare, step, train
from memfold.training.recipe import Recipe

TEXT = "Ada Brisk was born in Velm in 1893. She wrote the Long Ledger in a house on the river Tarn."


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
        (block,) = Pooled(ratio=4).compress([Document("a", TEXT)], backbone)
    assert block.slots is not None
    return block.slots


def test_a_new_encoder_and_its_projection_between_the_sizes(own: Recipe, small: str, tmp_path: Path) -> None:
    backbone = prepare(own, tmp_path).backbone
    assert (backbone.encoder_size, backbone.hidden_size) == (16, 32)
    weight = backbone.heads[HEAD].weight
    assert isinstance(weight, torch.Tensor)
    torch.testing.assert_close(weight.T @ weight, torch.eye(16))  # keeps lengths and angles
    states = load_backbone(small).model.base_model(torch.tensor([backbone.encode(TEXT)[:4]])).last_hidden_state
    torch.testing.assert_close(slots(backbone)[0], backbone.heads[HEAD](states[0].mean(0)), atol=1e-5, rtol=1e-5)


def test_both_models_and_the_projection_learn_and_are_kept(own: Recipe, small: str, tmp_path: Path) -> None:
    trained = train(own, tmp_path / "run")
    before, after = dict(load_backbone(small).model.base_model.named_parameters()), dict(trained.parameters())
    assert {name for name in after if name.startswith("encoder.")} == {f"encoder.{name}" for name in before}
    unchanged = {name for name, weight in before.items() if torch.equal(weight, after[f"encoder.{name}"])}
    assert unchanged == set()
    again = load_backbone(tmp_path / "run" / "model")
    assert again.parameters()[0][0] == trained.parameters()[0][0]
    assert all(torch.equal(weight, dict(again.parameters())[name]) for name, weight in after.items())
    assert torch.equal(slots(again), slots(trained))
    assert again.fingerprint() == trained.fingerprint()


def test_the_gradient_of_an_answer_reaches_the_encoder(own: Recipe, tmp_path: Path) -> None:
    run = prepare(own, tmp_path)
    before = {name: weight.detach().clone() for name, weight in run.backbone.parameters()}
    step(run)
    changed = {name for name, weight in run.backbone.parameters() if not torch.equal(weight, before[name])}
    assert changed == before.keys()


def test_a_frozen_encoder_stays_and_a_later_stage_keeps_it(own: Recipe, small: str, tmp_path: Path) -> None:
    train(replace(own, freeze=("encoder.*",)), tmp_path / "one")
    later = replace(own, parent=str(tmp_path / "one"), encoder=None)
    trained = train(replace(later, freeze=("encoder.*",)), tmp_path / "two")
    source = dict(load_backbone(small).model.base_model.named_parameters())
    kept = {name.removeprefix("encoder."): w for name, w in trained.parameters() if name.startswith("encoder.")}
    assert all(torch.equal(kept[name], weight) for name, weight in source.items())
    with pytest.raises(ConfigError, match="has an encoder already; leave it out"):
        prepare(replace(later, encoder=small), tmp_path / "three")


def test_a_resumed_run_goes_on_with_its_encoder_bit_for_bit(own: Recipe, tmp_path: Path) -> None:
    longer = replace(own, steps=4)
    whole = dict(train(longer, tmp_path / "whole").parameters())
    run = prepare(longer, tmp_path / "halves")
    for _ in range(2):
        step(run)
    checkpoint.save(run.folder, run.backbone, run.progress, run.optimisers.state_dict(), {})
    (tmp_path / "halves" / "metrics.jsonl").write_text("{}\n{}\n")
    resumed = dict(train(longer, tmp_path / "halves", resume=True).parameters())
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())


def test_the_fingerprint_covers_the_encoder(own: Recipe, tmp_path: Path) -> None:
    run = prepare(own, tmp_path / "run")
    in_memory = run.backbone.fingerprint()
    save_backbone(run.backbone, tmp_path / "model")
    stored = load_backbone(tmp_path / "model").fingerprint()
    path = tmp_path / "model" / "encoder" / "model.safetensors"
    weights = load_file(path)
    weights["norm.weight"][0] += 1
    save_file(weights, path, metadata={"format": "pt"})
    assert load_backbone(tmp_path / "model").fingerprint() != stored
    run.backbone.stored_fingerprint = None
    assert run.backbone.encoder is not None
    with torch.no_grad():
        dict(run.backbone.encoder.named_parameters())["norm.weight"][0] += 1
    assert run.backbone.fingerprint() != in_memory


def test_an_encoder_of_other_tokens_or_without_a_model_is_refused(
    own: Recipe, new_backbone: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tokenizer_training, "PAGES", 4)
    other = replace(new_backbone(hidden=16), tokenizer=tokenizer_training.train_tokenizer(400, 5))
    save_backbone(other, tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"encoder .*other reads other tokens: .*both need one tokenizer"):
        prepare(replace(own, encoder=str(tmp_path / "other")), tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"no model in .*missing"):
        prepare(replace(own, encoder=str(tmp_path / "missing")), tmp_path / "run")


def test_a_damaged_encoder_is_one_line(own: Recipe, tmp_path: Path) -> None:
    save_backbone(prepare(own, tmp_path / "run").backbone, tmp_path / "model")
    (tmp_path / "model" / "encoder" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="cannot load encoder") as raised:
        load_backbone(tmp_path / "model")
    assert "\n" not in str(raised.value)
