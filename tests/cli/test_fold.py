"""Folding: sizes, resuming, and what is kept when something stops it."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_result import Cli

from memfold.cli import estimate
from memfold.core.document import Document
from memfold.memory import open_memory
from memfold.memory.partial import PartialFolder
from memfold.session import open_session
from memfold.systems.pooled.system import Pooled


def test_fold_tells_its_sizes(cli: Cli, page: SimpleNamespace, model: tuple[str, str]) -> None:
    result = cli("fold", page.path, "-o", "page.fold", *model, "--json")
    assert result.code == 0
    record = result.record
    memory = open_memory("page.fold")
    assert record["tokens"] == memory.token_count
    assert record["slots"] == memory.slot_count == -(-memory.token_count // 16)
    assert record["bytes"]["slots"] == record["slots"] * 32 * 2
    assert record["bytes"]["total"] == Path("page.fold").stat().st_size
    assert record["effective_ratio"] == round(record["tokens"] / (record["slots"] + 2), 3)
    assert record["settings"]["model"] == "first"
    shown = cli("fold", page.path, "-o", "page.fold", *model).out
    assert f"{record['tokens']:,} in {len(page.text):,} characters" in shown
    assert (
        f"16: {record['tokens'] / record['slots']:.1f} tokens per slot; {record['effective_ratio']:.2f} with" in shown
    )


def test_inspect_shows_where_a_memory_comes_from(cli: Cli, page: SimpleNamespace, model: tuple[str, str]) -> None:
    assert cli("fold", page.path, "-o", "page.fold", *model, "--ratio", 4, "--dtype", "int8", "--no-text").code == 0
    record = cli("inspect", "page.fold", "--json").record
    assert (record["ratio"], record["dtype"], record["bytes"]["text"]) == (4, "int8", 0)
    shown = cli("inspect", "page.fold")
    assert shown.code == 0
    for part in ("page.txt", "pooled", "first", record["fingerprint"][:12], "no text", "full KV cache takes 128"):
        assert part in shown.out


def test_a_folder_and_standard_input_are_documents(cli: Cli, page: SimpleNamespace, model: tuple[str, str]) -> None:
    folder = page.path.parent / "texts"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "b.md").write_text("The second text.")
    (folder / "a.txt").write_text("The first text.")
    (folder / "c.png").write_bytes(b"\0")
    assert cli("fold", folder, "-", "-o", "all.fold", *model, stdin="Third: dörf.".encode()).code == 0
    memory = open_memory("all.fold")
    assert memory.sources == ("a.txt", "inner/b.md", "stdin")
    assert [block.read() for block in memory.blocks] == ["The first text.", "The second text.", "Third: dörf."]


@pytest.mark.usefixtures("small_chunks")
def test_an_interrupted_fold_goes_on(
    cli: Cli, page: SimpleNamespace, model: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("fold", page.path, "-o", "whole.fold", *model).code == 0
    whole = Pooled.compress

    def stopped(*arguments: Any, **named: Any) -> Any:
        for number, block in enumerate(whole(*arguments, **named)):
            if number == 3:
                raise KeyboardInterrupt
            yield block

    with monkeypatch.context() as patch:
        patch.setattr(Pooled, "compress", stopped)
        result = cli("fold", page.path, "-o", "page.fold", *model)
    assert result.code == 130
    assert result.message == "interrupted; the partial fold is kept, run the same command again to continue"
    assert not Path("page.fold").exists()
    result = cli("fold", page.path, "-o", "page.fold", *model)
    assert result.code == 0
    assert "continuing an interrupted fold: 3 blocks are already written" in result.err
    assert Path("page.fold").read_bytes() == Path("whole.fold").read_bytes()
    assert not Path("page.fold.partial").exists()


@pytest.mark.usefixtures("small_chunks")
def test_a_full_disk_leaves_the_old_file(
    cli: Cli, page: SimpleNamespace, model: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("old.txt").write_text("An older text.")
    assert cli("fold", "old.txt", "-o", "page.fold", *model).code == 0
    before = Path("page.fold").read_bytes()

    def full(self: PartialFolder, *arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(PartialFolder, "append", full)
        result = cli("fold", page.path, "-o", "page.fold", *model, "--force")
    assert result.code == 2
    assert "No space left on device; free some space and fold again" in result.message
    assert Path("page.fold").read_bytes() == before


BAD_DOCUMENTS = {
    "missing.txt": (None, "missing.txt does not exist; give an existing file"),
    "empty.txt": (b"", "empty.txt is empty"),
    "blank.txt": (b" \n ", "blank.txt is empty"),
    "binary.txt": (b"ab\0c", "byte 0x00 at offset 2"),
    "latin.txt": ("ab\u00e9".encode("latin-1"), "byte 0xe9 at offset 2"),
    "page.docx": (b"PK", "page.docx is damaged or not a .docx file: "),
    "page.pdf": (b"%PDF", "page.pdf is damaged or not a PDF"),
    "page.html": (b"text", "page.html is not HTML"),
}


@pytest.mark.parametrize("name", BAD_DOCUMENTS)
def test_a_bad_document_is_named(cli: Cli, name: str, model: tuple[str, str]) -> None:
    data, message = BAD_DOCUMENTS[name]
    if data is not None:
        Path(name).write_bytes(data)
    for command in (("fold", name, "-o", "out.fold"), ("ask", name, "Who?")):
        result = cli(*command, *model)
        assert result.code == 2
        assert message in result.message
    assert not list(Path().glob("out.fold*"))


def test_bad_standard_input_is_named(cli: Cli, model: tuple[str, str]) -> None:
    result = cli("fold", "-", "-o", "out.fold", *model, stdin=b"a\0")
    assert (result.code, result.message) == (
        2,
        "standard input is binary: byte 0x00 at offset 1; only text, HTML, PDF and .docx files can be read",
    )


BAD_CHOICES = [
    (("--ratio", 64), "ratio 64 is not one that model 'first' was trained at; allowed: 4, 16"),
    (("--system", "poold"), "unknown system 'poold'; nearest: 'pooled'"),
    (("--system", "full", "--ratio", 4), "ratio 4 is not possible: system 'full' keeps the text as it is"),
    (("--dtype", "int4"), "unknown memory dtype 'int4'; nearest: 'int8'; known: bfloat16, float32, int8"),
    (("--device", "abacus"), "device 'abacus' is not possible; allowed: cpu, cuda, cuda:N, mps"),
    (("--model", "tinny"), "unknown model 'tinny'; nearest: 'tiny'"),
    (("--model", "./nowhere"), "no model at './nowhere'"),
    (("--model", "http://localhost:8000"), "write http://localhost:8000#NAME"),
    (("-o", "no/such/folder/page.fold"), "there is no folder no/such/folder"),
    (("--rato", 4), "No such option: --rato"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_CHOICES)
def test_a_bad_choice_is_named(
    cli: Cli, page: SimpleNamespace, model: tuple[str, str], arguments: tuple[object, ...], message: str
) -> None:
    result = cli("fold", page.path, "-o", "page.fold", *model, *arguments)
    assert result.code == 2
    assert message in result.message
    assert not Path("page.fold").exists()


def test_a_long_fold_is_estimated_on_standard_error(
    cli: Cli, page: SimpleNamespace, model: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fold = ("fold", page.path, "-o", "page.fold", *model, "--json")
    plain = cli(*fold)
    assert plain.err == ""
    monkeypatch.setattr(estimate, "LARGE", len(page.text))
    result = cli(*fold)
    (line,) = result.err.splitlines()
    pattern = (
        r"about ([\d,]+) tokens in ([\d,]+) slots, a memory file of about ([\d.]+) KB, about \d+ s "
        r"\(from a probe of ([\d,]+) tokens\)"
    )
    found = re.fullmatch(pattern, line)
    assert found
    record = result.record
    tokens, slots, kilobytes, probe = (float(part.replace(",", "")) for part in found.groups())
    assert tokens == pytest.approx(record["tokens"], rel=0.1)
    assert slots == pytest.approx(record["slots"], rel=0.1)
    assert kilobytes * 1024 == pytest.approx(record["bytes"]["total"], rel=0.25)
    assert 0 < probe <= record["tokens"]
    assert {key: record[key] for key in ("tokens", "slots")} == {key: plain.record[key] for key in ("tokens", "slots")}


def test_what_is_appended_is_estimated_as_the_file_holds_it(
    cli: Cli, page: SimpleNamespace, model: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fold = ("fold", "-o", "page.fold", *model, "--json")
    assert cli(*fold, page.path, "--dtype", "float32", "--no-text").code == 0
    monkeypatch.setattr(estimate, "LARGE", 1)
    Path("more.txt").write_text(f"More. {page.text}")
    before = Path("page.fold").stat().st_size
    result = cli(*fold, "more.txt", "--append", "--no-text")
    assert result.code == 0, result.err
    found = re.search(r"slots, about ([\d.]+) KB added to the memory file, about", result.err)
    assert found
    grown = Path("page.fold").stat().st_size - before
    assert float(found[1]) * 1024 == pytest.approx(grown, rel=0.25)


def test_a_slow_model_is_estimated_from_a_short_probe(
    page: SimpleNamespace, models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "LARGE", 1)
    session = open_session("pooled", models["first"])
    documents = [Document("a", text=page.text), Document("b", text=page.text[:500])]
    quick = estimate.estimate(documents, session)
    monkeypatch.setattr(estimate, "QUICK", 0.0)
    slow = estimate.estimate(documents, session)
    assert quick is not None
    assert slow is not None
    assert slow.probe < 0.5 * quick.probe
    assert slow.tokens == pytest.approx(quick.tokens, rel=0.1)


def test_a_memory_of_text_is_estimated_without_slots(
    cli: Cli, page: SimpleNamespace, model: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "LARGE", 1)
    error = cli("fold", page.path, "-o", "page.fold", *model, "--system", "full").err
    assert error.startswith("about ")
    assert "slots" not in error
