"""Adding documents to a memory file: the same as folding all at once, or nothing at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from command_result import Cli

from memfold.core.types import Block
from memfold.memory import open_memory
from memfold.memory.writer import MemoryWriter

pytestmark = pytest.mark.usefixtures("small_chunks")


@pytest.fixture
def texts(page: SimpleNamespace) -> SimpleNamespace:
    """Two documents of several blocks, and one of one."""
    half = len(page.text) // 2
    Path("a.txt").write_text(page.text[:half])
    Path("b.txt").write_text(page.text[half:])
    Path("c.md").write_text("Velm is a town.")
    return page


def same_blocks(left: str, right: str) -> None:
    one, two = open_memory(left), open_memory(right)
    assert (one.sources, one.sha256, one.settings) == (two.sources, two.sha256, two.settings)
    assert len(one.blocks) == len(two.blocks) > 4
    plain = [field.name for field in fields(Block) if field.name not in ("slots", "stored")]
    for first, second in zip(one.blocks, two.blocks, strict=True):
        assert [getattr(first, name) for name in plain] == [getattr(second, name) for name in plain]
        assert first.read() == second.read()
        if first.slots is not None and second.slots is not None:
            assert torch.equal(first.slots, second.slots)


@pytest.mark.parametrize(
    "form", [(), ("--dtype", "int8"), ("--dtype", "float32", "--no-text"), ("--ratio", 4), ("--system", "full")]
)
def test_appending_equals_folding_all_at_once(
    cli: Cli, texts: SimpleNamespace, model: tuple[str, str], form: tuple[object, ...]
) -> None:
    assert cli("fold", "a.txt", "b.txt", "c.md", "-o", "all.fold", *model, *form).code == 0
    assert cli("fold", "a.txt", "-o", "grown.fold", *model, *form).code == 0
    again = ("--no-text",) if "--no-text" in form else ()  # all else is the file's
    result = cli("fold", "b.txt", "c.md", "-o", "grown.fold", "--append", *model, *again)
    assert result.code == 0
    assert result.err == ""
    if form != ("--system", "full"):
        same_blocks("grown.fold", "all.fold")
    assert Path("grown.fold").read_bytes() == Path("all.fold").read_bytes()


def test_a_text_that_is_there_is_skipped(cli: Cli, texts: SimpleNamespace, model: tuple[str, str]) -> None:
    assert cli("fold", "a.txt", "-o", "m.fold", *model).code == 0
    before = Path("m.fold").read_bytes()
    Path("copy.txt").write_bytes(Path("a.txt").read_bytes())
    result = cli("fold", "copy.txt", "-o", "m.fold", "--append", *model, "--json")
    assert result.code == 0
    assert result.err == "skipped: copy.txt has the same text as a.txt in m.fold\n"
    assert result.record["documents"][0]["source"] == "a.txt"
    assert Path("m.fold").read_bytes() == before
    Path("twice.txt").write_bytes(Path("c.md").read_bytes())
    result = cli("fold", "c.md", "twice.txt", "a.txt", "-o", "m.fold", "--append", *model)
    assert result.err.splitlines() == [
        "skipped: twice.txt has the same text as c.md",
        "skipped: a.txt has the same text as a.txt in m.fold",
    ]
    assert open_memory("m.fold").sources == ("a.txt", "c.md")


@pytest.mark.parametrize("blocks", [1, 2, 4])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_append_keeps_the_file_and_goes_on(
    cli: Cli,
    texts: SimpleNamespace,
    model: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    blocks: int,
    error: type[BaseException],
) -> None:
    assert cli("fold", "a.txt", "b.txt", "-o", "all.fold", *model).code == 0
    assert cli("fold", "a.txt", "-o", "m.fold", *model).code == 0
    before = Path("m.fold").read_bytes()
    written = iter(range(blocks))

    def failing(method: Callable[..., None]) -> Callable[..., None]:
        def write(*arguments: Any) -> None:
            if next(written, None) is None:
                raise error(28, "No space left on device")
            method(*arguments)

        return write

    from memfold.memory.partial import PartialFolder

    with monkeypatch.context() as patch:
        patch.setattr(PartialFolder, "append", failing(PartialFolder.append))
        result = cli("fold", "b.txt", "-o", "m.fold", "--append", *model)
    assert result.code == (130 if error is KeyboardInterrupt else 2)
    assert Path("m.fold").read_bytes() == before
    result = cli("fold", "b.txt", "-o", "m.fold", "--append", *model)
    written = "1 block is" if blocks == 1 else f"{blocks} blocks are"
    assert result.err == f"continuing an interrupted fold: {written} already written\n"
    assert Path("m.fold").read_bytes() == Path("all.fold").read_bytes()
    assert not Path("m.fold.partial").exists()


def test_what_does_not_fit_is_named_with_both_values(
    cli: Cli, texts: SimpleNamespace, model: tuple[str, str], models: dict[str, str]
) -> None:
    assert cli("fold", "a.txt", "-o", "m.fold", *model).code == 0
    assert cli("fold", "a.txt", "-o", "bare.fold", *model, "--no-text").code == 0
    before = Path("m.fold").read_bytes()
    for file, arguments, said in [
        ("m.fold", (*model, "--ratio", 4), "this memory was folded at ratio 16, not 4; leave the ratio out"),
        (
            "m.fold",
            (*model, "--system", "full"),
            "this memory was made by system 'pooled', not 'full'; leave the system out",
        ),
        ("m.fold", ("--model", models["second"]), "this memory was folded by model 'first', and model 'second' cannot"),
        ("m.fold", (*model, "--dtype", "int8"), "m.fold holds slots in bfloat16, --dtype asks for int8"),
        ("m.fold", (*model, "--no-text"), "m.fold holds the text of its documents, --no-text asks for none"),
        ("bare.fold", model, "bare.fold holds no text of its documents; give --no-text"),
        ("none.fold", model, "no memory file at none.fold"),
        ("a.txt", model, "a.txt is not a memory file"),
    ]:
        result = cli("fold", "b.txt", "-o", file, "--append", *arguments)
        assert result.code == 2, said
        assert said in result.message
    assert cli("fold", "missing.txt", "-o", "m.fold", "--append", *model).code == 2
    assert Path("m.fold").read_bytes() == before
    assert not list(Path().glob("*.partial"))


def test_blocks_that_were_written_are_not_folded_again(
    cli: Cli, texts: SimpleNamespace, model: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("fold", "a.txt", "-o", "m.fold", *model).code == 0
    count = len(open_memory("m.fold").blocks)
    folded: list[int] = []
    plain = MemoryWriter.add

    def add(self: MemoryWriter, block: Block) -> None:
        folded.append(block.source)
        plain(self, block)

    monkeypatch.setattr(MemoryWriter, "add", add)
    assert cli("fold", "c.md", "-o", "m.fold", "--append", *model).code == 0
    assert folded == [1]
    assert len(open_memory("m.fold").blocks) == count + 1


def test_a_pdf_and_a_page_are_folded_and_asked(
    cli: Cli, make_pdf: Callable[..., bytes], model: tuple[str, str]
) -> None:
    Path("papers").mkdir()
    Path("papers/a.pdf").write_bytes(make_pdf("Velm is a town.", "Ada Lorn was born in Velm."))
    Path("papers/b.html").write_text("<h1>Velm</h1><p>Its mayor is Ben Sor.</p>")
    assert cli("fold", "papers", "-o", "papers.fold", *model).code == 0
    memory = open_memory("papers.fold")
    assert memory.sources == ("a.pdf", "b.html")
    first, second = memory.blocks
    assert first.read() == "Velm is a town.\nAda Lorn was born in Velm.\n"
    assert second.read() == "# Velm\n\nIts mayor is Ben Sor.\n"
    answer = cli("ask", "papers.fold", "Who is the mayor of Velm?", *model, "--json")
    assert answer.code == 0
    assert {citation["source"] for citation in answer.record["citations"]} <= {"a.pdf", "b.html"}
    assert cli("ask", "papers/a.pdf", "Where was Ada Lorn born?", *model).code == 0
