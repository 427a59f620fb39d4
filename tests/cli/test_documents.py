"""What a command says of the documents it is given: folded, skipped, or refused before anything is folded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_result import Cli

from memfold.cli import documents
from memfold.cli.main import execute
from memfold.memory import open_memory


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder of every kind of file."""
    folder = tmp_path / "texts"
    (folder / "inner").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "a.txt").write_text("Ada left Velm.")
    (folder / "inner" / "a.txt").write_text("Ben came to Tor.")
    (folder / "copy.txt").write_text("Ada left Velm.")
    (folder / "odd\nname.log").write_text("The mill is old.")
    (folder / "empty.md").touch()
    (folder / "picture.png").write_bytes(b"\x89PNG\0")
    (folder / "scan.pdf").write_bytes(b"%PDF-1.4")
    (folder / "up").symlink_to("..", target_is_directory=True)
    os.mkfifo(folder / "pipe")
    return folder


FOLDED = ["a.txt", "inner/a.txt", "odd\nname.log"]
SKIPPED = {
    ".git": "is hidden",
    "pipe": "is a named pipe",
    "up": "is a link to a folder",
    "empty.md": "is empty",
    "picture.png": "is binary: byte 0x00 at offset 4",
    "scan.pdf": "is damaged or not a PDF: ",
    "copy.txt": "has the same text as a.txt",
}


def test_a_summary_names_what_is_folded_and_what_is_skipped(cli: Cli, texts: Path, model: tuple[str, str]) -> None:
    result = cli("fold", "texts", "-o", "m.fold", *model, "--json")
    assert result.code == 0
    lines = result.err.splitlines()
    assert lines[:3] == ["folding a.txt", "folding inner/a.txt", r"folding odd\nname.log"]
    for line, (name, reason) in zip(lines[3:], SKIPPED.items(), strict=True):
        assert line.startswith(f"skipped: {name} {reason}")
    record = result.record
    assert record["folded"] == [document["source"] for document in record["documents"]] == FOLDED
    assert [each["source"] for each in record["skipped"]] == list(SKIPPED)
    assert [each["same_as"] for each in record["skipped"]] == [None] * 6 + ["a.txt"]
    assert all(each["reason"].startswith(SKIPPED[each["source"]]) for each in record["skipped"])
    again = cli("fold", "texts", "-o", "m.fold", "--append", *model)
    assert again.code == 0
    assert "skipped: inner/a.txt has the same text as inner/a.txt in m.fold" in again.err
    assert "folding" not in again.err


def test_a_long_summary_is_cut(cli: Cli, texts: Path, model: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "SHOWN", 2)
    result = cli("fold", "texts", "-o", "m.fold", *model, "--json")
    lines = result.err.splitlines()
    assert [lines[index] for index in (0, 1, 2, 5)] == [
        "folding a.txt",
        "folding inner/a.txt",
        "folding 1 more",
        "skipped: 5 more",
    ]
    assert len(lines) == 6
    assert len(result.record["skipped"]) == 7


def test_a_named_file_that_cannot_be_read_stops_everything(cli: Cli, texts: Path, model: tuple[str, str]) -> None:
    for named in (["texts/scan.pdf"], ["texts", "texts/empty.md"], ["texts/a.txt", "texts/picture.png"]):
        result = cli("fold", *named, "-o", "m.fold", *model)
        assert result.code == 2
        assert result.message.startswith(f"{named[-1]} is ")
        assert not list(Path().glob("m.fold*"))
    (texts / "inner" / "a.txt").unlink()
    result = cli("fold", "texts", "texts/inner", "-o", "m.fold", *model)
    assert (result.code, result.message) == (
        2,
        "the folder texts/inner holds no file that can be read, it is empty; name one with plain text, HTML, PDF or "
        ".docx files",
    )


def test_a_folder_is_asked_and_its_summary_is_shown(cli: Cli, texts: Path, model: tuple[str, str]) -> None:
    result = cli("ask", "texts", "Who left Velm?", *model, "--json")
    assert result.err.startswith("folding a.txt\n")
    assert [each["source"] for each in result.record["skipped"]] == list(SKIPPED)
    shown = cli("ask", "texts", "Is the mill old?", *model, "--system", "retrieval")
    assert r"from      odd\nname.log, characters" in shown.out
    assert "skipped" not in cli("ask", "texts/a.txt", "Who left Velm?", *model, "--json").record


def test_documents_of_one_name_are_told_apart(cli: Cli, texts: Path, model: tuple[str, str]) -> None:
    fold = ("fold", "-o", "m.fold", *model)
    assert cli(*fold, "texts/a.txt", "texts/inner/a.txt").code == 0
    assert open_memory("m.fold").sources == ("a.txt", "inner/a.txt")
    Path("more").mkdir()
    Path("more/a.txt").write_text("Cid is in Lom.")
    assert cli(*fold, "more/a.txt", "--append").code == 0
    assert open_memory("m.fold").sources == ("a.txt", "inner/a.txt", "more/a.txt")
    assert r"document  more/a.txt" in cli("inspect", "m.fold").out


@pytest.mark.parametrize("suffix", ["", ".fold"])
@pytest.mark.parametrize("command", ["ask", "inspect"])
def test_a_memory_file_is_not_read_through_a_pipe(
    cli: Cli, page: SimpleNamespace, model: tuple[str, str], command: str, suffix: str
) -> None:
    """With the suffix, and for inspect, the pipe is refused before it is opened: nobody writes to it."""
    assert cli("fold", page.path, "-o", "m.fold", *model).code == 0
    os.mkfifo(f"pipe{suffix}")
    writer = threading.Thread(target=lambda: Path("pipe").write_bytes(Path("m.fold").read_bytes()))
    opened = command == "ask" and not suffix
    if opened:
        writer.start()
    result = cli(command, f"pipe{suffix}", *(("Who?", *model) if command == "ask" else ()))
    if opened:
        writer.join()
    expected = (
        "is a memory file, not a document; ask it" if opened else "is a pipe or a device; a memory file is read at"
    )
    assert result.code == 2
    assert result.message.startswith(f"pipe{suffix} {expected}")


def test_formats_are_known_through_a_pipe(cli: Cli, make_pdf: Callable[..., bytes], model: tuple[str, str]) -> None:
    piped = make_pdf("Velm is a town.")
    assert cli("fold", "-", "-o", "m.fold", *model, stdin=piped).code == 0
    memory = open_memory("m.fold")
    assert memory.sources == ("stdin",)
    assert [block.read() for block in memory.blocks] == ["Velm is a town.\n"]


def test_standard_input_may_be_closed(
    cli: Cli, texts: Path, model: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert execute(["fold", "texts/a.txt", "-o", "m.fold", *model]) == 0
    assert execute(["fold", "-", "-o", "n.fold", *model]) == 2
    assert execute(["ask", "m.fold", *model]) == 0
    assert not Path("n.fold").exists()


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="process substitution is a feature of bash")
def test_process_substitutions_are_documents(tmp_path: Path, model: tuple[str, str]) -> None:
    pipes = "<(echo Ada left Velm.) <(echo Ben came.)"
    script = f'"{sys.executable}" -m memfold fold {pipes} -o m.fold --json {" ".join(model)}'
    done = subprocess.run(["/bin/bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True)
    sources = json.loads(done.stdout)["folded"]
    assert len(sources) == 2
    assert all(source.startswith("/dev/fd/") for source in sources)
    assert [block.read() for block in open_memory(tmp_path / "m.fold").blocks] == ["Ada left Velm.\n", "Ben came.\n"]
