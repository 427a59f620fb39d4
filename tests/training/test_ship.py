from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from memfold.backbone.adapters import add_role, is_lora
from memfold.backbone.familiarity import loss_of
from memfold.backbone.folder import load_backbone, save_backbone
from memfold.core.errors import CheckpointError, ConfigError, DataError
from memfold.training import ship as shipping
from memfold.training.loop import train
from memfold.training.recipe import Recipe
from memfold.training.ship import ship


@pytest.fixture
def run(recipe: Recipe, tmp_path: Path) -> Path:
    train(replace(recipe, steps=2), tmp_path / "first-run")
    return tmp_path / "first-run"


def test_a_shipped_model_records_its_provenance(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "_limits", lambda backbone: (5.0, 2.5))
    target = tmp_path / "assets"
    ship([run], target)
    shipped = load_backbone(target)
    assert (shipped.familiar_loss, shipped.familiar_characters) == (5.0, 2.5)
    (stage,) = shipped.provenance["stages"]
    assert (stage["run"], stage["steps"], stage["recipe"]["stage"]) == ("first-run", 2, "cpt1")
    assert stage["validation"].keys() >= {"0:pooled/group/answer"}
    assert shipped.provenance["hardware"]["torch"] == torch.__version__
    assert (target / "curves-first-run.png").stat().st_size > 1000


def test_shipped_weights_are_those_of_the_run_in_16_bits(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "_limits", lambda backbone: (1.0, 1.0))
    ship([run], tmp_path / "assets")
    before = dict(load_backbone(run / "model").parameters())
    after = dict(load_backbone(tmp_path / "assets").parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(weight.bfloat16().float(), after[name]) for name, weight in before.items())


def test_adapters_that_were_trained_beside_each_other_are_shipped_together(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "_limits", lambda backbone: (1.0, 1.0))
    runs, weights = [], {}
    for number, role in enumerate(("gate", "reader")):
        beside = tmp_path / f"run-{role}"
        shutil.copytree(run, beside)
        backbone = load_backbone(run / "model")
        add_role(backbone, role, 2, 4.0, ("q_proj",))
        for name, parameter in backbone.model.named_parameters():
            if is_lora(name):
                torch.nn.init.constant_(parameter, number + 1.0)
        backbone.trained = {**backbone.trained, role: {"number": number}}
        shutil.rmtree(beside / "model")
        save_backbone(backbone, beside / "model")
        runs.append(beside)
    shipped = ship(runs, tmp_path / "assets")
    weights = {name: float(value.detach().mean()) for name, value in shipped.model.named_parameters() if is_lora(name)}
    assert {name.split(".")[-2]: value for name, value in weights.items()} == {"gate": 1.0, "reader": 2.0}
    assert {"gate", "reader"} <= shipped.trained.keys()
    other = load_backbone(runs[0] / "model")
    with torch.no_grad():
        other.model.get_input_embeddings().weight.add_(1.0)
    save_backbone(other, runs[0] / "model")
    assert set(ship(runs, tmp_path / "others").roles) == {"reader"}, "adapters of other weights"


def test_what_two_runs_changed_of_one_shipment_is_shipped_together(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the runs has trained one of the two adapters, and the first a head, too."""
    monkeypatch.setattr(shipping, "_limits", lambda backbone: (1.0, 1.0))
    backbone = load_backbone(run / "model")
    for role in ("gate", "reader"):
        add_role(backbone, role, 2, 4.0, ("q_proj",))
    backbone.trained |= {"gate": {"number": 0}, "reader": {"number": 0}}
    backbone.provenance = {"stages": []}
    save_backbone(backbone, tmp_path / "before")
    head = next(name for name, _ in backbone.parameters() if name.startswith("heads."))
    runs = []
    for number, role in enumerate(("gate", "reader"), 1):
        beside = tmp_path / f"run-{role}"
        shutil.copytree(run, beside)
        changed = load_backbone(tmp_path / "before")
        for name, parameter in changed.parameters():
            if f".{role}." in name or (name == head and number == 1):
                torch.nn.init.constant_(parameter, number)
        changed.trained = {**changed.trained, role: {"number": number}}
        shutil.rmtree(beside / "model")
        save_backbone(changed, beside / "model")
        runs.append(beside)
    shipped = ship(runs, tmp_path / "assets", after=tmp_path / "before")
    values = {name: float(value.detach().mean()) for name, value in shipped.parameters()}
    assert {values[name] for name in values if ".gate." in name} == {1.0}
    assert {values[name] for name in values if ".reader." in name} == {2.0}
    assert values[head] == 1.0
    assert (shipped.trained["gate"], shipped.trained["reader"]) == ({"number": 1}, {"number": 2})


def test_a_shipment_after_another_keeps_its_stages_and_curves(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "_limits", lambda backbone: (1.0, 1.0))
    target = tmp_path / "assets"
    ship([run], target)
    second = run.rename(tmp_path / "second-run")
    ship([second], target, after=target)
    assert [stage["run"] for stage in load_backbone(target).provenance["stages"]] == ["first-run", "second-run"]
    assert sorted(path.name for path in target.glob("*.png")) == ["curves-first-run.png", "curves-second-run.png"]


def test_a_shipment_of_new_adapters_keeps_what_was_measured_of_the_weights(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits of familiar texts are those of the weights that read, which are the same."""
    earlier = load_backbone(run / "model")
    earlier.familiar_loss, earlier.familiar_characters = 4.0, 2.0
    earlier.provenance = {"stages": []}
    save_backbone(earlier, tmp_path / "earlier", dtype="bfloat16")
    add_role(earlier, "reader", 2, 4.0, ("q_proj",))
    shutil.rmtree(run / "model")
    save_backbone(earlier, run / "model")
    shipped = ship([run], tmp_path / "adapted", after=tmp_path / "earlier")
    assert (shipped.familiar_loss, shipped.familiar_characters) == (4.0, 2.0)
    monkeypatch.setattr(shipping, "_limits", lambda backbone: (1.0, 1.0))
    with torch.no_grad():
        earlier.model.get_input_embeddings().weight.mul_(1.1)
    shutil.rmtree(run / "model")
    save_backbone(earlier, run / "model")
    shipped = ship([run], tmp_path / "trained", after=tmp_path / "earlier")
    assert (shipped.familiar_loss, shipped.familiar_characters) == (1.0, 1.0)


def test_kept_weights_are_averaged_with_those_of_the_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "_limits", lambda backbone: (1.0, 1.0))
    earlier = load_backbone(run / "model")
    with torch.no_grad():
        for weight in dict(earlier.parameters()).values():
            weight.add_(1.0)
    earlier.provenance = {"stages": [{"run": "before"}]}
    save_backbone(earlier, tmp_path / "earlier")
    ship([run], tmp_path / "assets", after=tmp_path / "earlier", keep=0.25)
    trained, shipped = dict(load_backbone(run / "model").parameters()), load_backbone(tmp_path / "assets")
    assert [stage.get("kept") for stage in shipped.provenance["stages"]] == [None, 0.25]
    for name, weight in dict(shipped.parameters()).items():
        torch.testing.assert_close(weight, (trained[name] + 0.25).bfloat16().float(), atol=0.02, rtol=0.02)
    with pytest.raises(ConfigError, match="with an earlier shipment"):
        ship([run], tmp_path / "other", keep=0.25)


def test_a_new_adapter_is_averaged_with_none_and_those_of_other_runs_are_not(run: Path, tmp_path: Path) -> None:
    """Its effect, the product of its two matrices, is three quarters of what was trained."""
    earlier = load_backbone(run / "model")
    earlier.provenance = {"stages": []}
    save_backbone(earlier, tmp_path / "earlier", dtype="bfloat16")
    runs = []
    for role in ("gate", "reader"):
        beside = tmp_path / f"run-{role}"
        shutil.copytree(run, beside)
        trained = load_backbone(tmp_path / "earlier")
        add_role(trained, role, 2, 4.0, ("q_proj",))
        for name, weight in trained.parameters():
            if is_lora(name):
                torch.nn.init.constant_(weight, 2.0)
        shutil.rmtree(beside / "model")
        save_backbone(trained, beside / "model")
        runs.append(beside)
    shipped = ship(runs, tmp_path / "assets", after=tmp_path / "earlier", keep=0.25)
    values = {
        matrix: {float(weight.detach().mean()) for name, weight in shipped.parameters() if f".{matrix}." in name}
        for matrix in ("lora_A.gate", "lora_B.gate", "lora_A.reader", "lora_B.reader")
    }
    assert values == {"lora_A.gate": {2.0}, "lora_B.gate": {2.0}, "lora_A.reader": {2.0}, "lora_B.reader": {1.5}}


@pytest.mark.parametrize("name", ["notes.txt", "memfold.json"])
def test_a_folder_that_was_not_shipped_is_not_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / name).write_text('{"provenance": {}}')
    with pytest.raises(DataError, match="not an empty folder"):
        ship([tmp_path], tmp_path / "assets")
    assert (tmp_path / "assets" / name).exists()


def test_limits_are_those_that_few_almanac_texts_exceed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "TEXTS", 16)  # every level in every split, a page and a sentence of each
    monkeypatch.setattr(shipping, "LENGTHS", (96,))
    monkeypatch.setattr(shipping, "FALSE_WARNINGS", 2 / 15)
    backbone = load_backbone(run / "model")
    texts = shipping._familiar_texts(backbone)
    assert len(set(texts)) == 16
    assert all(sentence in page for page, sentence in zip(texts[::2], texts[1::2], strict=True) if " " in sentence)
    loss, characters = shipping._limits(backbone)
    assert sum(loss_of(backbone, text) > loss + 0.001 for text in texts) == 2
    assert sum(len(text) / len(backbone.encode(text)) < characters - 0.001 for text in texts) == 2


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model in"):
        ship([tmp_path], tmp_path / "assets")
    assert not (tmp_path / "assets").exists()
