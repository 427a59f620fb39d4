from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from memfold.backbone.resolve import model_folder, resolve_model
from memfold.core.errors import CheckpointError, ConfigError


def make_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_a_run_gives_its_finished_model_else_its_newest_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    older, newer = make_model(run / "step-000002" / "model"), make_model(run / "step-000010" / "model")
    make_model(run / "step-000012.partial" / "model")
    assert model_folder(run) == newer
    assert model_folder(older) == older
    finished = make_model(run / "model")
    assert model_folder(run) == finished
    assert resolve_model(str(run)) == str(finished)
    with pytest.raises(CheckpointError, match="no model in"):
        model_folder(tmp_path)


def test_names_that_are_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_model("someone/some-model") == "someone/some-model"
    with pytest.raises(ConfigError, match="'https://host/v1' is an endpoint, but its weights are needed here"):
        resolve_model("https://host/v1")
    with pytest.raises(ConfigError, match="unknown model 'tinny'; nearest: 'tiny'"):
        resolve_model("tinny")
    for name in ("./gone", "/gone", "~/gone", "a/b/c"):
        with pytest.raises(CheckpointError, match=f"no model at '{name}'"):
            resolve_model(name)


def test_tiny_is_in_the_package_or_the_recipe_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    with pytest.raises(CheckpointError, match=r"train it \(memfold train recipes/"):
        resolve_model("tiny")
    folder = make_model(tmp_path / "assets" / "tiny")
    assert resolve_model("tiny") == str(folder)
