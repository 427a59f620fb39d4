"""Published weights are named by their id, in the commands of docs/models.md, and read from the cache of the hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from recorded import variants
from test_lychee import install

from memfold import session
from memfold.backbone.resolve import hub_has
from memfold.cli.main import execute
from memfold.memory import open_memory

REVISION = "0" * 40
LCLM, LYCHEE = "latent-context/0.6b-4b-LCLM-16x", "lerverson/LycheeMemory-7B"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a cache that holds small weights under both ids."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub_has.cache_clear()
    session._load.cache_clear()
    lychee = install(variants("lychee")[0], tmp_path / "lychee")
    for name, folder in ((LCLM, variants("lclm")[0] / "checkpoint"), (LYCHEE, lychee)):
        model = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder, model / "snapshots" / REVISION)
        (model / "refs").mkdir()
        (model / "refs" / "main").write_text(REVISION)
    return tmp_path / "hub"


@pytest.mark.parametrize(("name", "system"), [(LCLM, "pooled"), (LYCHEE, "kvbank")])
def test_a_text_is_folded_and_asked_about(
    name: str, system: str, cached: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("Ada was born in Velm. The mill of Tor stands by the river.")
    memory = str(tmp_path / "a.fold")
    assert execute(["fold", str(tmp_path / "a.txt"), "-o", memory, "--model", name]) == 0
    assert open_memory(memory).system == system
    capsys.readouterr()
    assert execute(["ask", memory, "Where was Ada born?", "--json", "--max-tokens", "8", "--model", name]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == name


def test_a_part_of_a_download_is_not_a_model(cached: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("Ada was born in Velm.")
    next(cached.glob("*LCLM*/snapshots/*/encoder/model.safetensors")).unlink()
    assert execute(["ask", str(tmp_path / "a.txt"), "Where was Ada born?", "--model", LCLM]) == 2
    assert "encoder holds no weights (model.safetensors); the download is not complete" in capsys.readouterr().err
