from __future__ import annotations

import time
from importlib import resources
from pathlib import Path

import pytest
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from memfold.backbone.folder import load_backbone
from memfold.backbone.resolve import check_model, hub_has, model_folder, resolve_model
from memfold.core.errors import CheckpointError, ConfigError


def hub_error(kind: type[Exception]) -> Exception:
    """Return an error of the hub without the response that its constructor wants."""
    return kind.__new__(kind)


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
    for name in ("host:8000/v1#x", "localhost:8000/v1", "gpu.lan:80", "host/v1#x"):
        with pytest.raises(ConfigError, match=f"looks like the address of an endpoint; write http://{name}"):
            resolve_model(name)
    for name in ("a b/c", "a/\udcff", "a/", "a/b\0"):
        with pytest.raises(ConfigError, match="is neither a folder nor a Hugging Face id; write OWNER/NAME"):
            resolve_model(name)
    for name in ("./gone", "/gone", "~/gone", "a/b/c"):
        with pytest.raises(CheckpointError, match=f"no model at '{name}'"):
            resolve_model(name)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("no route"), "and https?://.* cannot be reached; give a model folder"),
        (hub_error(LocalEntryNotFoundError), "cannot be reached"),
        (hub_error(RepositoryNotFoundError), "and Hugging Face does not have it; check its name"),
        (hub_error(GatedRepoError), "access to it is restricted"),
        (hub_error(EntryNotFoundError), None),
        (None, None),
    ],
)
def test_the_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch, error: Exception | None, message: str | None) -> None:
    asked = []

    def answer(url: str, **options: object) -> None:
        asked.append(url)
        if error is not None:
            raise error

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", answer)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub_has.cache_clear()
    if message is None:
        check_model("someone/some-model")
        check_model("someone/some-model")
    else:
        with pytest.raises(CheckpointError, match=f"model 'someone/some-model' is neither .* cache, .*{message}"):
            check_model("someone/some-model")
    assert len(asked) == 1
    hub_has.cache_clear()


def test_a_hub_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url, timeout: time.sleep(60))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("memfold.backbone.resolve.HUB_SECONDS", 0.1)
    hub_has.cache_clear()
    started = time.perf_counter()
    with pytest.raises(CheckpointError, match="cannot be reached"):
        load_backbone("someone/some-model")
    assert time.perf_counter() - started < 5
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: "/cached/config.json")
    assert not hub_has("someone/some-model")
    hub_has.cache_clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert not hub_has("someone/some-model")
    hub_has.cache_clear()


def test_tiny_is_in_the_package_or_the_recipe_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    with pytest.raises(CheckpointError, match=r"train it \(memfold train recipes/"):
        resolve_model("tiny")
    folder = make_model(tmp_path / "assets" / "tiny")
    assert resolve_model("tiny") == str(folder)
    monkeypatch.chdir(tmp_path)
    assert model_folder("tiny") == folder
    own = make_model(tmp_path / "tiny")
    assert model_folder("tiny").resolve() == own
