from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from memfold.backbone.folder import load_backbone
from memfold.core.errors import CheckpointError
from memfold.training import ship as shipping
from memfold.training.loop import train
from memfold.training.recipe import Recipe
from memfold.training.ship import ship


@pytest.fixture
def run(recipe: Recipe, tmp_path: Path) -> Path:
    train(replace(recipe, steps=2), tmp_path / "first-run")
    return tmp_path / "first-run"


def test_a_shipped_model_records_its_provenance(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "_familiar_losses", lambda backbone: [2.0, 5.0, 3.0])
    target = tmp_path / "assets"
    ship([run], target)
    shipped = load_backbone(target)
    assert shipped.familiar_loss == 6.0  # 1.2 times the highest
    (stage,) = shipped.provenance["stages"]
    assert (stage["run"], stage["steps"], stage["recipe"]["stage"]) == ("first-run", 2, "cpt1")
    assert stage["validation"].keys() >= {"0:pooled/group/answer"}
    assert shipped.provenance["hardware"]["torch"] == torch.__version__
    assert (target / "curves-first-run.png").stat().st_size > 1000


def test_shipped_weights_are_those_of_the_run_in_16_bits(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "_familiar_losses", lambda backbone: [1.0])
    ship([run], tmp_path / "assets")
    before = dict(load_backbone(run / "model").parameters())
    after = dict(load_backbone(tmp_path / "assets").parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(weight.bfloat16().float(), after[name]) for name, weight in before.items())


def test_pages_of_the_almanac_are_measured(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "PAGES", 8)  # every level in every split
    monkeypatch.setattr(shipping, "PAGE_TOKENS", 96)
    losses = shipping._familiar_losses(load_backbone(run / "model"))
    assert len(losses) == 8
    assert all(0 < loss < 20 for loss in losses)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model in"):
        ship([tmp_path], tmp_path / "assets")
    assert not (tmp_path / "assets").exists()
