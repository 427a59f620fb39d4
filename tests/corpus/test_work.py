"""One file at a time: which memory belongs to it, when it is there already, and what is left alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memfold.core.errors import DataError
from memfold.corpus.work import FAILED, FOLDED, KEPT, Order, Outcome, Worker, find_jobs
from memfold.folding import fold_file
from memfold.memory import open_memory, partial_folder
from memfold.readers.files import open_document
from memfold.systems.pooled.system import Pooled

Write = Callable[[str, int], Path]


def fold(order: Order, folder: Path) -> dict[str, Outcome]:
    """Fold the folder `texts` beside a folder into it."""
    jobs, _ = find_jobs([folder.parent / "texts"], folder)
    worker = Worker(order)
    assert worker.load() is None
    return {job.source: worker.fold(job) for job in jobs}


def states(outcomes: dict[str, Outcome]) -> dict[str, str]:
    return {source: outcome.state for source, outcome in outcomes.items()}


@pytest.fixture
def three(write: Write) -> None:
    """Three texts, one of them in a subfolder."""
    for name in ("a.txt", "b.md", "inner/a.txt"):
        write(name, 6)


@pytest.mark.usefixtures("three")
def test_a_memory_is_that_of_its_file_alone(order: Order, tmp_path: Path) -> None:
    outcomes = fold(order, tmp_path / "out")
    for name in ("a.txt", "b.md", "inner/a.txt"):
        document = open_document(tmp_path / "texts" / name, name)
        fold_file([document], tmp_path / "one.fold", order.session(), force=True)
        memory = open_memory(tmp_path / "out" / f"{name}.fold")
        assert memory.sources == (name,)
        assert outcomes[name] == Outcome(name, FOLDED, memory.token_count)
        assert (tmp_path / "out" / f"{name}.fold").read_bytes() == (tmp_path / "one.fold").read_bytes()


@pytest.mark.usefixtures("three")
def test_a_finished_file_is_kept_and_nothing_else(order: Order, write: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert set(states(fold(order, out)).values()) == {FOLDED}
    expected = (out / "b.md.fold").read_bytes()
    kept = (out / "a.txt.fold").stat().st_ino
    write("new.txt", 2)
    (out / "inner" / "a.txt.fold").unlink()
    damaged = bytearray(expected)
    damaged[-1] ^= 1
    (out / "b.md.fold").write_bytes(damaged)
    assert states(fold(order, out)) == {"a.txt": KEPT, "b.md": FOLDED, "inner/a.txt": FOLDED, "new.txt": FOLDED}
    assert (out / "b.md.fold").read_bytes() == expected
    assert (out / "a.txt.fold").stat().st_ino == kept
    assert set(states(fold(order, out)).values()) == {KEPT}


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    "change", [{"ratio": 4}, {"dtype": "float32"}, {"keep_text": False}, {"settings": {"chunk": 128}}]
)
def test_other_settings_fold_again(order: Order, tmp_path: Path, change: dict[str, Any]) -> None:
    assert set(states(fold(order, tmp_path / "out")).values()) == {FOLDED}
    assert set(states(fold(replace(order, **change), tmp_path / "out")).values()) == {FOLDED}
    assert set(states(fold(replace(order, **change), tmp_path / "out")).values()) == {KEPT}


@pytest.mark.usefixtures("three")
def test_the_memory_of_another_text_is_replaced_by_force_only(order: Order, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fold(order, out)
    before = (out / "b.md.fold").read_bytes()
    (tmp_path / "texts" / "b.md").write_text("Another text.")
    outcomes = fold(order, out)
    assert states(outcomes) == {"a.txt": KEPT, "b.md": FAILED, "inner/a.txt": KEPT}
    assert outcomes["b.md"].problem == (
        f"b.md: {out / 'b.md.fold'} is the memory of another text; choose another folder, or give --force to replace it"
    )
    assert (out / "b.md.fold").read_bytes() == before
    forced = fold(replace(order, force=True), out)
    assert states(forced) == {"a.txt": KEPT, "b.md": FOLDED, "inner/a.txt": KEPT}
    assert [block.read() for block in open_memory(out / "b.md.fold").blocks] == ["Another text."]


@pytest.mark.usefixtures("three")
def test_what_cannot_be_folded_stops_no_other(order: Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, out = tmp_path / "texts", tmp_path / "out"
    (texts / "empty.txt").touch()
    (texts / "binary.txt").write_bytes(b"ab\0c")
    (texts / "odd.txt").write_text("An odd text.")
    (texts / "taken.txt").write_text("A text.")
    (out / "taken.txt.fold").mkdir(parents=True)
    plain = Pooled.compress

    def compress(self: Pooled, documents: Any, *rest: Any, **named: Any) -> Any:
        if documents[0].source == "odd.txt":
            raise ZeroDivisionError("division by zero")
        return plain(self, documents, *rest, **named)

    monkeypatch.setattr(Pooled, "compress", compress)
    problems = {source: outcome.problem for source, outcome in fold(order, out).items() if outcome.state == FAILED}
    assert set(problems) == {"empty.txt", "binary.txt", "odd.txt", "taken.txt"}
    assert str(problems["empty.txt"]).startswith("empty.txt is empty; ")
    assert str(problems["binary.txt"]).startswith("binary.txt is binary: byte 0x00 at offset 2")
    assert problems["odd.txt"] == "odd.txt: ZeroDivisionError: division by zero"
    assert "it is a folder" in str(problems["taken.txt"])
    assert len(list(out.rglob("*.fold"))) == 3 + 1


def test_a_fold_that_was_stopped_is_continued(order: Order, write: Write, tmp_path: Path) -> None:
    path, out = write("a.txt", 60), tmp_path / "out"
    fold(order, tmp_path / "whole")
    out.mkdir()

    def stop(block: Any) -> None:
        if block.index == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fold_file([open_document(path, "a.txt")], out / "a.txt.fold", order.session(), progress=stop)
    assert partial_folder(out / "a.txt.fold").exists()
    tokens = fold(order, out)["a.txt"].tokens
    assert tokens == open_memory(out / "a.txt.fold").token_count - 3 * order.settings["chunk"]
    assert (out / "a.txt.fold").read_bytes() == (tmp_path / "whole" / "a.txt.fold").read_bytes()
    assert not partial_folder(out / "a.txt.fold").exists()


def test_every_file_has_a_memory_of_its_own_name(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.txt", "a.md", ".hidden", "inner/a.txt", "inner/a.txt.fold"):
        write(name, 1)
    jobs, skipped = find_jobs([tmp_path / "texts"], tmp_path / "out")
    names = ["a.md", "a.txt", "inner/a.txt", "inner/a.txt.fold"]
    assert [job.source for job in jobs] == names
    assert [str(job.memory) for job in jobs] == [str(tmp_path / "out" / f"{name}.fold") for name in names]
    assert [str(each) for each in skipped] == [".hidden is hidden; name it to read it"]
    monkeypatch.chdir(tmp_path)
    jobs, _ = find_jobs(["texts/inner", "texts/a.md", "texts/a.md"], Path("out"))
    assert [job.source for job in jobs] == ["inner/a.txt", "inner/a.txt.fold", "a.md"]
    assert jobs[0].memory == tmp_path / "out" / "inner" / "a.txt.fold"


def test_memories_in_the_folder_are_no_sources(order: Order, write: Write, tmp_path: Path) -> None:
    write("a.txt", 3)
    texts = tmp_path / "texts"
    for _ in range(2):
        jobs, skipped = find_jobs([texts], texts)
        assert [(job.source, job.memory) for job in jobs] == [("a.txt", texts / "a.txt.fold")]
        assert skipped == []
        worker = Worker(order)
        worker.load()
        worker.fold(jobs[0])
    assert (texts / "a.txt.fold").exists()


def test_sources_that_are_no_files_are_refused(write: Write, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    os.mkfifo(tmp_path / "pipe")
    refused = {
        "missing.txt": "does not exist; give an existing file",
        "nothing": "no file to fold in",
        "pipe": "is a pipe, and no memory file can be named after it",
    }
    for name, message in refused.items():
        with pytest.raises(DataError, match=message):
            find_jobs([tmp_path / name], tmp_path / "out")
