"""`--set`: settings of a system on the command line, those of folding and those of reading."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from command_result import Cli

import memfold
from memfold.core.errors import ConfigError
from memfold.core.settings import parse_settings
from memfold.memory import open_memory


def test_settings_of_folding_are_those_of_the_memory(cli: Cli, page: SimpleNamespace, model: tuple[str, str]) -> None:
    """A memory that needs no training keeps its own choice when it is opened again."""
    fold = ("fold", page.path, "-o", "m.fold", *model, "--system", "kvbank")
    assert cli(*fold, "--set", "compressor=recent", "--set", "chunk=64").code == 0
    memory = open_memory("m.fold")
    assert (memory.settings["compressor"], memory.settings["chunk"]) == ("recent", 64)
    assert len(memory.blocks) > 1
    assert cli("ask", "m.fold", "Who?", *model, "--set", "gate=open", "--set", "note=8").code == 0
    opened = memfold.open("m.fold", model=model[1])
    assert opened.session.system.settings["compressor"] == "recent"


def test_settings_of_reading_change_the_answer(cli: Cli, page: SimpleNamespace, model: tuple[str, str]) -> None:
    ask = ("ask", page.path, "Who?", *model, "--system", "retrieval", "--json")
    few, one = cli(*ask, "--set", "chunk=16").record, cli(*ask, "--set", "chunk=16", "--set", "top=1").record
    assert len(few["citations"]) > len(one["citations"])
    assert one["usage"]["decoder_positions"] <= 16
    assert memfold.fold(page.path, model=model[1], system="recurrent", settings={"note": 99}).answering(note=9)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--set", "note"), "--set 'note' cannot be read; write SETTING=VALUE, such as note=256"),
        (("--set", "note=1", "--set", "note=2"), "--set gives note twice"),
        (("--set", "notes=1"), "unknown recurrent setting 'notes'; nearest: 'note'"),
        (("--set", "note=0"), "note = 0 is not possible; allowed: 1 token or more"),
        (("--set", "note=much"), "note = 'much' is not possible; allowed: an integer"),
    ],
)
def test_what_cannot_be_set_is_refused(
    cli: Cli, page: SimpleNamespace, model: tuple[str, str], words: tuple[str, ...], message: str
) -> None:
    result = cli("ask", page.path, "Who?", *model, "--system", "recurrent", *words)
    assert (result.code, result.message[: len(message)]) == (2, message)


def test_an_opened_memory_has_its_settings_of_folding(cli: Cli, page: SimpleNamespace, model: tuple[str, str]) -> None:
    assert cli("fold", page.path, "-o", "m.fold", *model).code == 0
    asked = cli("ask", "m.fold", "Who?", *model, "--set", "window=0")
    assert asked.message.startswith("system 'pooled' has no reading setting 'window'; allowed: style, ")
    Path("b.txt").write_text("Velm.")
    added = cli("fold", "b.txt", "-o", "m.fold", "--append", *model, "--set", "window=0")
    assert added.message == "--set is not possible with --append: the settings are those of the file; leave it out"


def test_values_are_numbers_truths_or_texts() -> None:
    words = ["a=1", "b=-2", "c=0.5", "d=1.5e-3", "e=true", "f=false", "g=bm25", "h=x=y"]
    assert list(parse_settings(words).values()) == [1, -2, 0.5, 0.0015, True, False, "bm25", "x=y"]
    with pytest.raises(ConfigError, match="cannot be read"):
        parse_settings(["=1"])


def test_python_refuses_other_types(page: SimpleNamespace) -> None:
    with pytest.raises(TypeError, match="settings must be a mapping, not list"):
        memfold.fold(page.path, settings=["note=1"])  # type: ignore[arg-type]
