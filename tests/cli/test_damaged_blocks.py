"""A memory file with an altered slot: what ask, inspect and fold --append say, and what they still do."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from command_result import Cli

from memfold.memory import open_memory

AGAIN = "fold the document again"


def damage_block(path: str, number: int) -> str:
    """Alter a bit of the slots of a block, and return what messages call it."""
    memory = open_memory(path)
    block = memory.blocks[number]
    assert block.slots is not None
    data, slots = bytearray(Path(path).read_bytes()), block.slots.clone()
    place = data.find(slots.numpy().tobytes())
    assert place > 0
    data[place] ^= 1
    Path(path).write_bytes(data)
    return block.where(memory.sources[block.source])


@pytest.fixture
def bank(cli: Cli, page: SimpleNamespace, model: tuple[str, str]) -> str:
    """A bank of keys and values of several blocks."""
    chosen = ("--system", "kvbank", "--set", "chunk=512", "--set", "compressor=recent", "--dtype", "float32")
    assert cli("fold", page.path, "-o", "bank.fold", *model, *chosen).code == 0
    assert len(open_memory("bank.fold").blocks) > 3
    return "bank.fold"


def test_a_bank_answers_from_its_sound_blocks_and_says_so(cli: Cli, bank: str, model: tuple[str, str]) -> None:
    ask = ("ask", bank, "Where is it?", *model, "--set", "gate=open")
    assert "damaged" not in str(cli(*ask, "--json").record["warning"])
    calls = cli(*ask, "--json").record["usage"]["calls"]
    named = damage_block(bank, 1)
    result = cli(*ask, "--json")
    assert result.code == 0
    assert f"{named} is damaged and was not read; {AGAIN}" in result.record["warning"]
    assert result.record["usage"]["calls"] == calls - 1
    assert f"warning: {named} is damaged" in cli(*ask).out


@pytest.mark.usefixtures("small_chunks")
def test_a_system_that_reads_all_slots_refuses_with_the_block(
    cli: Cli, page: SimpleNamespace, model: tuple[str, str]
) -> None:
    assert cli("fold", page.path, "-o", "page.fold", *model, "--dtype", "float32").code == 0
    named = damage_block("page.fold", 2)
    result = cli("ask", "page.fold", "Where is it?", *model)
    assert result.code == 2
    assert result.message == f"page.fold: the slots of {named} were altered after they were written; {AGAIN}"
    again = cli("fold", page.path, "-o", "page.fold", *model)
    assert (again.code, cli("ask", "page.fold", "Where is it?", *model).code) == (0, 0)


def test_inspect_reads_slots_only_to_verify_them(cli: Cli, bank: str) -> None:
    count = len(open_memory(bank).blocks)
    assert "checked   all but the slots; --verify reads them, too" in cli("inspect", bank).out
    sound = cli("inspect", bank, "--verify")
    assert (sound.code, f"checked   all {count} blocks are sound" in sound.out) == (0, True)
    assert cli("inspect", bank, "--verify", "--json").record["damaged"] == []
    named = damage_block(bank, 1)
    shown, result = cli("inspect", bank), cli("inspect", bank, "--verify")
    assert (shown.code, result.code) == (0, 2)
    assert f"checked   1 of {count} blocks damaged" in result.out
    assert result.message == f"bank.fold has 1 damaged block: {named}; {AGAIN}"
    told = cli("inspect", bank, "--verify", "--json")
    assert (told.code, told.record["damaged"]) == (2, [named])
    assert "damaged" not in cli("inspect", bank, "--json").record


def test_a_damaged_file_is_not_added_to(cli: Cli, bank: str, model: tuple[str, str]) -> None:
    named, before = damage_block(bank, 1), Path(bank).read_bytes()
    Path("more.txt").write_text("Velm is a town.")
    result = cli("fold", "more.txt", "-o", bank, "--append", *model)
    assert (result.code, result.message) == (2, f"bank.fold has 1 damaged block: {named}; {AGAIN}")
    assert Path(bank).read_bytes() == before


def test_verifying_is_for_memory_files(cli: Cli) -> None:
    Path("samples.jsonl").write_text("{}\n")
    result = cli("inspect", "samples.jsonl", "--verify")
    assert result.code == 2
    assert "--verify checks a memory file, and samples.jsonl holds replies" in result.message
