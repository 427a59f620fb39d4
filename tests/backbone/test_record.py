"""What a model folder says of its model without loading it, compared with the loaded model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from memfold.backbone.folder import load_backbone, save_backbone
from memfold.backbone.model import Backbone
from memfold.backbone.record import SETTINGS_FILE, file_fingerprint, read_record
from memfold.core.errors import CheckpointError, ConfigError, DataError
from memfold.core.registry import DEFAULT
from memfold.core.types import Memory
from memfold.session import open_session, rebuild, session_for

MakeBackbone = Callable[..., Backbone]


@pytest.fixture
def folder(tmp_path: Path, new_backbone: MakeBackbone) -> Path:
    backbone = new_backbone()
    backbone.trained = {DEFAULT: {"ratios": [4, 16]}}
    save_backbone(backbone, tmp_path / "small")
    return tmp_path / "small"


def test_a_record_is_what_the_loaded_model_says(folder: Path, new_backbone: MakeBackbone) -> None:
    record, backbone = read_record(folder, "some"), load_backbone(folder)
    assert record is not None
    assert (record.name, record.trained, record.has_weights) == ("some", backbone.trained, True)
    assert record.readable == backbone.readable == (file_fingerprint(folder),)
    backbone.set_encoder(new_backbone(seed=1))
    save_backbone(backbone, folder)
    record = read_record(folder, "some")
    assert record is not None
    assert record.readable == load_backbone(folder).readable != (file_fingerprint(folder),)


def test_a_changed_file_changes_the_fingerprint(folder: Path) -> None:
    before = file_fingerprint(folder)
    config = folder / "config.json"
    config.write_text(config.read_text() + "\n")
    assert file_fingerprint(folder) != before


def test_folders_without_a_record(folder: Path) -> None:
    settings = json.loads((folder / SETTINGS_FILE).read_text())
    (folder / SETTINGS_FILE).write_text(json.dumps(settings | {"format": 1}))
    assert read_record(folder, "some") is None
    (folder / SETTINGS_FILE).write_text("[]")
    with pytest.raises(CheckpointError, match="is not a JSON object"):
        read_record(folder, "some")
    (folder / SETTINGS_FILE).unlink()
    assert read_record(folder, "some") is None


def test_bad_requests_load_no_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object) -> None:
        pytest.fail("the weights were loaded")

    monkeypatch.setattr("memfold.session._load", never)
    with pytest.raises(ConfigError, match="ratio 5 is not one that model 'small' was trained at; allowed: 4, 16"):
        open_session(DEFAULT, str(folder), ratio=5)
    with pytest.raises(ConfigError, match="unknown dtype 'float8'"):
        open_session(DEFAULT, str(folder), dtype="float8")
    memory = Memory("m", DEFAULT, rebuild(DEFAULT, {}).settings, "0" * 64, ("a",), [])
    with pytest.raises(DataError, match="model 'small' cannot read its slots"):
        session_for(memory, str(folder))
    with pytest.raises(DataError, match="this memory was folded at ratio 16, not 4"):
        session_for(memory, str(folder), ratio=4)
    with pytest.raises(DataError, match=f"this memory was made by system '{DEFAULT}', not 'full'"):
        session_for(memory, str(folder), system="full")
