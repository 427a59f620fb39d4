"""`memfold models`: known models, whether they are here, and how to get the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memfold.backbone.named.known import MODELS
from memfold.backbone.named.table import NAMED
from memfold.cli.main import execute
from memfold.core.registry import SYSTEMS


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub that holds one model."""
    cache = tmp_path / "models--lerverson--LycheeMemory-7B"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("abc")
    (cache / "snapshots" / "abc").mkdir(parents=True)
    (cache / "snapshots" / "abc" / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_models_that_are_here_and_those_to_get(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["models"]) == 0
    shown = capsys.readouterr().out.splitlines()
    lines = {line.split()[0]: line.split() for line in shown if not line.startswith("to get")}
    assert lines["tiny"][1:6] == ["pooled,", "full,", "kvbank,", "recurrent", "yes"]
    assert lines["lerverson/LycheeMemory-7B"][1:4] == ["kvbank", "yes", "15.5"]
    assert lines["BytedTsinghua-SIA/RL-MemoryAgent-7B"][1:3] == ["recurrent", "no"]
    name = "latent-context/0.6b-4b-LCLM-16x"
    assert f"to get {name}: hf download {name}" in shown
    assert not any(line.startswith("to get lerverson") for line in shown)


def test_the_same_as_json(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["models", "--json"]) == 0
    records = {record["name"]: record for record in json.loads(capsys.readouterr().out)["models"]}
    assert list(records) == [model.name for model in MODELS]
    assert records["lerverson/LycheeMemory-7B"]["present"]
    assert records["smollm2"]["systems"] == ["full", "retrieval", "recurrent"]


def test_the_table_names_what_exists() -> None:
    assert set(NAMED) <= {model.name for model in MODELS}
    assert {system for model in MODELS for system in model.systems} <= set(SYSTEMS)
