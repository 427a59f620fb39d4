"""A memory of text belongs to no model: any model and any endpoint reads it and adds to it; slots have one encoder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from chat_server import ChatServer, says
from command_result import Cli

from memfold.backbone.model import Backbone
from memfold.core.errors import MemfoldError
from memfold.core.registry import text_systems
from memfold.memory import concatenate, open_memory
from memfold.memory.writer import MemoryWriter

MORE = "Ben Sor is the mayor of Velm."


@pytest.fixture
def chosen(models: dict[str, str], chat_server: ChatServer) -> dict[str, tuple[str, str]]:
    """The arguments that choose each of three models, two of them local."""
    chat_server.usual = says(lambda message: r"It is so. \boxed{Velm}")
    remote = {"remote": f"{chat_server.url}#some-model"}
    return {name: ("--model", where) for name, where in (models | remote).items()}


@pytest.fixture
def more() -> str:
    Path("more.txt").write_text(MORE)
    return "more.txt"


@pytest.mark.parametrize("reader", ["second", "remote"])
@pytest.mark.parametrize("folder", ["first", "remote"])
@pytest.mark.parametrize("system", text_systems())
def test_any_model_reads_it_and_adds_to_it(
    cli: Cli, chosen: dict[str, tuple[str, str]], more: str, system: str, folder: str, reader: str
) -> None:
    Path("a.txt").write_text("Ada Lorn was born in Velm.")
    assert cli("fold", "a.txt", "-o", "m.fold", *chosen[folder], "--system", system).code == 0
    assert cli("fold", more, "-o", "m.fold", *chosen[reader], "--append").code == 0
    memory = open_memory("m.fold")
    assert [block.read() for block in memory.blocks] == ["Ada Lorn was born in Velm.", MORE]
    assert memory.fingerprint == ""
    record = cli("ask", "m.fold", "Where was Ada Lorn born?", *chosen[reader], "--json").record
    assert "error" not in record
    assert record["model"] == ("some-model" if reader == "remote" else reader)
    assert record["citations"][0]["text"]


def test_memories_of_several_models_are_joined(cli: Cli, chosen: dict[str, tuple[str, str]], more: str) -> None:
    Path("a.txt").write_text("Ada Lorn was born in Velm.")
    assert cli("fold", "a.txt", "-o", "a.fold", *chosen["first"], "--system", "full").code == 0
    assert cli("fold", more, "-o", "b.fold", *chosen["remote"], "--system", "full").code == 0
    joined = concatenate([open_memory("a.fold"), open_memory("b.fold")])
    assert [block.read() for block in joined.blocks] == ["Ada Lorn was born in Velm.", MORE]


def test_no_weights_are_hashed_for_a_memory_of_text(
    cli: Cli, chosen: dict[str, tuple[str, str]], more: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backbone, "fingerprint", lambda self: pytest.fail("weights were hashed"))
    assert cli("fold", more, "-o", "m.fold", *chosen["first"], "--system", "full").code == 0
    assert cli("ask", "m.fold", "Who is the mayor?", *chosen["second"]).code == 0


def test_blocks_of_an_interrupted_append_are_kept_for_the_model_that_made_them(
    cli: Cli, chosen: dict[str, tuple[str, str]], page: SimpleNamespace, more: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokens of the endpoint end elsewhere, so its blocks do not go on where those of the local model end."""
    fold = ("fold", page.path, "-o", "m.fold", "--append")
    assert cli("fold", more, "-o", "m.fold", *chosen["first"], "--system", "retrieval").code == 0
    plain, count = MemoryWriter.add, iter(range(99))

    def stopped(*arguments: object) -> None:
        if next(count) == 5:
            raise KeyboardInterrupt
        plain(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(MemoryWriter, "add", stopped)
        assert "the partial fold is kept" in cli(*fold, *chosen["first"]).message
    resumed = cli(*fold, *chosen["remote"])
    assert (resumed.code, resumed.err) == (0, "")
    assert "".join(block.read() or "" for block in open_memory("m.fold").blocks) == MORE + page.text


@pytest.mark.parametrize("system", text_systems())
def test_it_is_never_stored_without_its_text(
    cli: Cli, more: str, monkeypatch: pytest.MonkeyPatch, chosen: dict[str, tuple[str, str]], system: str
) -> None:
    said = (
        f"a memory of system '{system}' is the text itself, so the text must be stored; leave --no-text "
        "(keep_text=False) out"
    )
    Path("a.txt").write_text("Ada Lorn was born in Velm.")
    assert cli("fold", "a.txt", "-o", "m.fold", "--system", system, *chosen["first"]).code == 0
    before = Path("m.fold").read_bytes()
    monkeypatch.setattr("memfold.session.load", lambda *_: pytest.fail("a model was loaded"))
    for options in (("-o", "new.fold", "--system", system), ("-o", "m.fold", "--append")):
        result = cli("fold", more, *options, "--no-text", *chosen["first"])
        assert (result.code, result.message) == (2, said)
    assert Path("m.fold").read_bytes() == before
    assert not Path("new.fold").exists()


@pytest.mark.parametrize("reader", ["second", "remote"])
def test_slots_are_read_by_their_own_model_only(
    cli: Cli, chosen: dict[str, tuple[str, str]], more: str, reader: str
) -> None:
    assert cli("fold", more, "-o", "m.fold", *chosen["first"]).code == 0
    name = "some-model" if reader == "remote" else reader
    said = (
        f"this memory was folded by model 'first', and model '{name}' cannot read its slots; use the model that folded "
        "it, or fold the document again"
    )
    for command in (("ask", "m.fold", "Who?"), ("fold", "more.txt", "-o", "m.fold", "--append")):
        Path("more.txt").write_text(f"{MORE} {command[0]}")
        result = cli(*command, *chosen[reader])
        assert (result.code, result.message) == (2, said)


def test_slots_are_never_unfolded_without_text(cli: Cli, chosen: dict[str, tuple[str, str]], more: str) -> None:
    from memfold import api

    assert cli("fold", more, "-o", "m.fold", *chosen["first"], "--no-text").code == 0
    result = cli("ask", "m.fold", "Who?", *chosen["first"], "--unfold")
    assert result.message == "this memory holds no text to unfold; fold the documents without --no-text"
    with pytest.raises(MemfoldError, match="holds no text to unfold"):
        api.open("m.fold", model=chosen["first"][1]).unfolding(64)


def test_the_usual_model_says_so_where_another_has_folded(cli: Cli, chosen: dict[str, tuple[str, str]]) -> None:
    """The file does not choose the model that reads it."""
    Path("a.txt").write_text("Ada Lorn was born in Velm.")
    told = "--model tiny: m.fold was folded with first, which reads it too"
    assert cli("fold", "a.txt", "-o", "m.fold", *chosen["first"], "--system", "full").code == 0
    usual = cli("ask", "m.fold", "Where was Ada Lorn born?", "--json")
    assert (usual.record["model"], told in usual.err) == ("tiny", True)
    assert told not in cli("ask", "m.fold", "Where was Ada Lorn born?", *chosen["second"]).err
    assert cli("fold", "a.txt", "-o", "tiny.fold", "--system", "full").code == 0
    assert "was folded with" not in cli("ask", "tiny.fold", "Where was Ada Lorn born?").err
