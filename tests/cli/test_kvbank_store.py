"""Banks that store their blocks, or only their text: fold, ask, inspect, append, and the same from Python."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_result import Cli

import memfold
from memfold.core.errors import ConfigError, DataError
from memfold.folding import append_file
from memfold.memory import open_memory, open_stored
from memfold.session import open_session
from memfold.sources import given_inputs

SETTINGS = {"chunk": 256, "compressor": "recent"}
KVBANK = ("--system", "kvbank", "--set", "chunk=256", "--set", "compressor=recent")
TEXT = ("--set", "store=text")
QUESTION = "Where is it?"


@pytest.fixture
def banks(cli: Cli, page: SimpleNamespace, model: tuple[str, str]) -> None:
    """blocks.fold and text.fold, of the same page."""
    for name, more in (("blocks.fold", ()), ("text.fold", TEXT)):
        assert cli("fold", page.path, "-o", name, *model, *KVBANK, *more).code == 0


@pytest.mark.usefixtures("banks")
def test_both_give_the_same_answer(cli: Cli, model: tuple[str, str]) -> None:
    left_out = ("usage", "seconds")
    stored, made = ({**cli("ask", f"{name}.fold", QUESTION, *model, "--json").record} for name in ("blocks", "text"))
    assert made["usage"]["decoder_positions"] == stored["usage"]["decoder_positions"] > 0
    assert (stored["usage"]["memory_slots"] > 0, made["usage"]["memory_slots"]) == (True, 0)
    assert {k: v for k, v in made.items() if k not in left_out} == {
        k: v for k, v in stored.items() if k not in left_out
    }


@pytest.mark.usefixtures("banks")
def test_inspect_says_what_is_stored_and_its_bytes_per_token(cli: Cli) -> None:
    stored, made = (cli("inspect", f"{name}.fold", "--json").record for name in ("blocks", "text"))
    assert (stored["stores_slots"], made["stores_slots"]) == (True, False)
    assert (stored["blocks"], stored["tokens"]) == (made["blocks"], made["tokens"])
    assert made["bytes"]["slots"] == 0
    assert made["bytes_per_token"]["total"] < 8 < stored["bytes_per_token"]["slots"]
    shown = cli("inspect", "text.fold").out
    assert "slots     made from the text when they are read, at ratio 4; none is stored" in shown
    assert f"per token {made['bytes_per_token']['without_text']:.1f} bytes without text" in shown
    assert "store text" in shown
    assert "made from the text" not in cli("inspect", "blocks.fold").out
    assert cli("inspect", "text.fold", "--verify").code == 0


@pytest.mark.usefixtures("banks")
def test_a_memory_grows_as_it_is(cli: Cli, model: tuple[str, str]) -> None:
    Path("more.txt").write_text("Velm is a town by the sea.")
    for name, slots in (("blocks", True), ("text", False)):
        before = open_memory(f"{name}.fold")
        assert cli("fold", "more.txt", "-o", f"{name}.fold", "--append", *model).code == 0
        after = open_memory(f"{name}.fold")
        assert len(after.blocks) == len(before.blocks) + 1
        assert {block.slot_count > 0 for block in after.blocks} == {slots}
        assert cli("ask", f"{name}.fold", QUESTION, *model).code == 0


@pytest.mark.usefixtures("banks")
def test_blocks_are_not_added_to_text(model: tuple[str, str]) -> None:
    session = open_session("kvbank", model[1], settings=SETTINGS)
    (document,) = given_inputs(None, ["Velm is a town."]).documents
    with pytest.raises(DataError, match="this memory has store = 'text', not 'blocks'"):
        append_file([document], open_stored("text.fold"), session)


def test_a_memory_of_text_needs_its_text(cli: Cli, page: SimpleNamespace, model: tuple[str, str]) -> None:
    message = "a memory of system 'kvbank' with these settings is the text itself, so the text must be stored"
    for more in (TEXT, ("--set", "store=auto", "--set", "gigabytes=0")):
        result = cli("fold", page.path, "-o", "a.fold", *model, *KVBANK, *more, "--no-text")
        assert (result.code, message in result.message) == (2, True)
        assert not Path("a.fold").exists()
    assert cli("fold", page.path, "-o", "a.fold", *model, *KVBANK, "--no-text").code == 0
    with pytest.raises(ConfigError, match="is the text itself"):
        python(model, store="text").save("b.fold", keep_text=False)


@pytest.mark.parametrize(("gigabytes", "store"), [("0.5", "blocks"), ("0.00001", "text")])
def test_the_room_for_blocks_decides(
    cli: Cli, page: SimpleNamespace, model: tuple[str, str], gigabytes: str, store: str
) -> None:
    room = ("--set", "store=auto", "--set", f"gigabytes={gigabytes}")
    assert cli("fold", page.path, "-o", "a.fold", *model, *KVBANK, *room).code == 0
    found = cli("inspect", "a.fold", "--json").record
    assert (found["settings"]["store"], found["stores_slots"]) == (store, store == "blocks")
    assert cli("ask", "a.fold", QUESTION, *model, "--set", "gigabytes=0").code == 0


def python(model: tuple[str, str], **settings: Any) -> memfold.FoldedMemory:
    text = "Velm is a town by the sea. Ada Lorn was born in Velm. She wrote 20 books.\n" * 30
    return memfold.fold(texts=[text], model=model[1], system="kvbank", settings=SETTINGS | settings)


def test_from_python_a_memory_in_ram_grows_as_it_is(model: tuple[str, str]) -> None:
    memory = python(model, store="auto", gigabytes=0)
    assert memory.memory.settings["store"] == "text"
    memory.append(texts=["Bel has 41 sheep."])
    assert [block.slots for block in memory.memory.blocks] == [None] * len(memory.memory.blocks)
    stored = python(model)
    stored.append(texts=["Bel has 41 sheep."])
    assert memory.ask(QUESTION).reply == stored.ask(QUESTION).reply
