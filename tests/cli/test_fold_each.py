"""`memfold fold -o FOLDER/`: a memory of each file, what is told of them, and the exit code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from command_result import Cli

from memfold.corpus.engines.local import LocalEngine
from memfold.corpus.work import Worker
from memfold.memory import open_memory


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Two texts, a file that cannot be read, and a hidden one."""
    folder = tmp_path / "texts"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.txt").write_text("Ada left Velm.")
    (folder / "inner" / "b.txt").write_text("Ben came to Tor.")
    (folder / "empty.md").touch()
    (folder / ".git").mkdir()
    return folder


EMPTY = "empty.md is empty; a document needs at least one character that is not a space"


def test_each_file_is_folded_and_one_that_cannot_be_is_told_at_the_end(
    cli: Cli, texts: Path, model: tuple[str, str]
) -> None:
    result = cli("fold", "texts", "-o", "memories/", *model)
    assert result.code == 1
    assert result.out.startswith("memories: 2 files folded; ")
    assert result.err.splitlines() == [
        "skipped: .git is hidden; name it to read it",
        f"failed: {EMPTY}",
        "memfold: 1 of 3 files could not be folded, for the reasons above; all others are",
    ]
    assert open_memory("memories/a.txt.fold").sources == ("a.txt",)
    assert open_memory("memories/inner/b.txt.fold").sources == ("inner/b.txt",)
    (texts / "empty.md").write_text("Cid is in Lom.")
    again = cli("fold", "texts", "-o", "memories/", *model)
    assert again.code == 0
    assert again.out.startswith("memories: 1 files folded, 2 already there; ")
    assert cli("ask", "memories/inner/b.txt.fold", "Who came to Tor?", *model).code == 0


def test_json_has_all_of_it(cli: Cli, texts: Path, model: tuple[str, str]) -> None:
    assert cli("fold", "texts/a.txt", "-o", "memories", "--engine", "local", *model).code == 0
    result = cli("fold", "texts", "-o", "memories", "--engine", "local", *model, "--json")
    record = result.record
    assert result.code == 1
    assert (record["folder"], record["folded"], record["kept"]) == ("memories", ["inner/b.txt"], ["a.txt"])
    assert record["failed"] == [{"source": "empty.md", "reason": EMPTY}]
    assert [each["source"] for each in record["skipped"]] == [".git"]
    assert record["tokens"] == open_memory("memories/inner/b.txt.fold").token_count
    assert record["seconds"]["fold"] > 0


def test_a_memory_of_text_is_folded_like_any_other(cli: Cli, texts: Path, model: tuple[str, str]) -> None:
    command = ("fold", "texts/a.txt", "texts/inner", "-o", "memories/", *model, "--system", "retrieval", "--json")
    assert cli(*command).record["folded"] == ["a.txt", "inner/b.txt"]
    assert cli(*command).record["kept"] == ["a.txt", "inner/b.txt"]
    assert [block.read() for block in open_memory("memories/a.txt.fold").blocks] == ["Ada left Velm."]


def test_an_interruption_keeps_what_is_folded(
    cli: Cli, texts: Path, model: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Worker.fold

    def stopped(self: Worker, job: Any, *rest: Any) -> Any:
        if job.source == "inner/b.txt":
            raise KeyboardInterrupt
        return plain(self, job, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "fold", stopped)
        result = cli("fold", "texts/a.txt", "texts/inner", "-o", "memories/", *model)
    assert result.code == 130
    assert result.message == "interrupted; what is folded is kept, run the same command again to continue"
    assert cli("fold", "texts/a.txt", "texts/inner", "-o", "memories/", *model, "--json").record["kept"] == ["a.txt"]


def test_what_an_engine_prints_is_not_on_standard_output(
    cli: Cli, texts: Path, model: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = LocalEngine.run

    def run(*arguments: Any) -> Any:
        print("a worker ended")
        return plain(*arguments)

    monkeypatch.setattr(LocalEngine, "run", run)
    result = cli("fold", "texts/a.txt", "-o", "memories/", *model, "--json")
    assert result.record["folded"] == ["a.txt"]
    assert "a worker ended" in result.err


REFUSED = {
    ("texts", "-o", "memories/", "--engine", "rai"): "unknown engine 'rai'; nearest: 'ray'; known: local, ray",
    ("texts", "-o", "memories/", "--workers", "2"): (
        "--workers 2 is not possible in one process; give --engine ray, or leave it out"
    ),
    ("texts", "-o", "memories/", "--append"): (
        "--append is not possible with a memory of each file; leave it out, or name a memory file"
    ),
    ("-", "-o", "memories/"): (
        "standard input has no name for a memory of its own; name a file, or fold into a memory file"
    ),
    ("texts", "-o", "texts/a.txt/"): "cannot make the folder texts/a.txt: it is a file; choose another folder",
    ("texts", "-o", "memories/", "--engine", "ray"): "engine 'ray' needs Ray; pip install 'memfold[ray]'",
    (
        "texts",
        "-o",
        "memories/",
        "--ratio",
        "5",
    ): "ratio 5 is not one that model 'first' was trained at; allowed: 4, 16",
    ("texts", "-o", "memories/", "--dtype", "int7"): (
        "unknown memory dtype 'int7'; nearest: 'int8'; known: bfloat16, float32, int8"
    ),
}


@pytest.mark.usefixtures("texts")
@pytest.mark.parametrize("arguments", REFUSED, ids=" ".join)
def test_what_cannot_be_done_is_refused_in_one_line(
    cli: Cli, model: tuple[str, str], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (Path("texts") / ".git").rmdir()
    result = cli("fold", *arguments, *model)
    assert (result.code, result.out, result.message) == (2, "", REFUSED[arguments])
    assert not Path("memories").exists()
