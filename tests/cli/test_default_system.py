"""Without --system, a model is used with the system that it was trained for, and other models read text."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_result import Cli

from memfold.backbone.folder import save_backbone
from memfold.backbone.model import Backbone
from memfold.core.errors import ConfigError
from memfold.core.registry import DEFAULT, SYSTEMS, TEXT_DEFAULT, default_for, has_slots
from memfold.memory import open_memory
from memfold.session import default_system, open_session

LCLM = Path(__file__).parents[1] / "fixtures" / "lclm" / "ratio4_tied" / "checkpoint"


def test_the_first_system_that_a_model_was_trained_for() -> None:
    assert default_for({"kvbank": {}, DEFAULT: {}}) == DEFAULT
    assert default_for({"recurrent": {}, "kvbank": {}}) == "kvbank"
    assert default_for({}) == TEXT_DEFAULT
    assert TEXT_DEFAULT in SYSTEMS
    assert not has_slots(TEXT_DEFAULT)


def test_the_shipped_model_a_published_one_and_an_address() -> None:
    assert default_system("tiny") == DEFAULT
    assert default_system(str(LCLM)) == "pooled"
    assert default_system("http://localhost:1/v1#some") == TEXT_DEFAULT
    with pytest.raises(ConfigError, match="unknown model 'tinny'"):
        default_system("tinny")


def test_a_folder_that_is_called_as_published_weights_are(tmp_path: Path, new_backbone: Any) -> None:
    """Some published weights have an ordinary layout, and a download into a folder of one's own has no id."""
    folders = [tmp_path / name for name in ("RL-MemoryAgent-7B", "another")]
    for folder in folders:
        save_backbone(new_backbone(), folder)
        (folder / "memfold.json").unlink()
        (folder / "heads.safetensors").unlink()
    assert [default_system(str(folder)) for folder in folders] == ["recurrent", TEXT_DEFAULT]
    opened = [open_session("recurrent", str(folder)).system.settings["prompts"] for folder in folders]
    assert opened == ["tagged", "short"]


def test_another_system_than_the_usual_is_told(
    cli: Cli, page: SimpleNamespace, tmp_path: Path, new_backbone: Any
) -> None:
    backbone: Backbone = new_backbone()
    backbone.heads.clear()
    save_backbone(backbone, tmp_path / "plain")
    backbone.trained = {"full": {}}
    save_backbone(backbone, tmp_path / "reader")
    told = f"--system retrieval: model {tmp_path / 'plain'} reads text"
    for line in (("fold", page.path, "-o", "m.fold"), ("ask", page.path, "Who?")):
        result = cli(*line, "--model", tmp_path / "plain")
        assert (result.code, result.err.splitlines()[0]) == (0, told)
        assert told not in cli(*line, "--model", tmp_path / "plain", "--system", "full", *_forced(line)).err
    assert open_memory("m.fold").system == "full"
    trained = cli("ask", page.path, "Who?", "--model", tmp_path / "reader")
    assert f"--system full: model {tmp_path / 'reader'} was trained for it" in trained.err


def test_a_system_that_must_be_trained_is_refused_before_the_weights_are_read(
    cli: Cli, page: SimpleNamespace, tmp_path: Path, new_backbone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a plain folder, as others publish it."""
    backbone: Backbone = new_backbone()
    backbone.model.save_pretrained(tmp_path / "plain")
    backbone.tokenizer.save_pretrained(tmp_path / "plain")
    monkeypatch.setattr("memfold.session.load", lambda *_: pytest.fail("the weights were read"))
    result = cli("ask", page.path, "Who?", "--system", "pooled", "--model", tmp_path / "plain")
    assert result.code == 2
    assert result.message.startswith(
        "model 'plain' was not trained for system 'pooled'; train it for that, or use a --"
    )
    trained = cli(
        "ask", page.path, "Who?", "--system", "kvbank", "--set", "compressor=trained", "--model", tmp_path / "plain"
    )
    assert "was not trained for system 'kvbank'" in trained.message


def _forced(line: tuple[Any, ...]) -> tuple[str, ...]:
    return ("--force",) if line[0] == "fold" else ()
