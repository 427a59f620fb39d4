"""No command replaces what it did not write, and none writes over what it reads: every command, every kind of path."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_result import Cli, Result
from file_size_limit import file_size_limit

import memfold
from memfold.core.errors import DataError
from memfold.core.outputs import check_file, new_folder
from memfold.folding import append_file, fold_file
from memfold.memory import open_memory, open_stored
from memfold.memory.writer import MemoryWriter
from memfold.readers.files import open_document
from memfold.session import open_session

RECIPE = """
stage = "base"
steps = 2
tokens = 64
micro_batches = 1
precision = "float32"

[model]
vocabulary = 300
hidden = 16
layers = 1
heads = 2
feedforward = 16
window = 512

[[mixture]]
task = "prose"
system = "full"
weight = 1
sizes = [64]
level = 1
"""

INPUTS = ("input", "relative", "hard link", "link")  # ways to name one of the inputs
NO_FILES = ("folder", "pipe", "device", "lost link")
FOREIGN = ("file", "link to a file")


def put(kind: str, path: Path, given: Path) -> Path:
    """Make a path of that kind, and return it; `given` is one of the inputs."""
    if kind == "input":
        return given
    if kind == "relative":
        return given.parent / "somewhere" / ".." / given.name
    path.parent.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Any] = {
        "hard link": lambda: os.link(given, path),
        "link": lambda: path.symlink_to(given),
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/null"),
        "lost link": lambda: path.symlink_to("nowhere"),
        "file": lambda: path.write_text("mine"),
        "link to a file": lambda: path.symlink_to(written(path.with_name("theirs"), "theirs")),
    }
    makers[kind]()
    return path


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path.absolute()


def state(folder: Path) -> dict[str, object]:
    """Everything in a folder: what it is, and what it holds."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if stat.S_ISREG(mode) else None
        found[str(path.relative_to(folder))] = (stat.S_IFMT(mode), content)
    return found


def refused(result: Result) -> str:
    assert result.code == 2, result
    assert result.out == ""
    return result.message


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a command fail that loads or makes a model."""

    def load(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    for name in ("session.load", "backbone.folder.load_backbone", "training.loop._begin", "cli.sample._measure"):
        monkeypatch.setattr(f"memfold.{name}", load)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "force"])
@pytest.mark.parametrize("kind", [*INPUTS, *NO_FILES])
@pytest.mark.parametrize("append", [(), ("--append",)], ids=["fold", "append"])
def test_a_fold_never_writes_to_its_inputs_or_to_what_is_no_file(
    cli: Cli, page: SimpleNamespace, tmp_path: Path, kind: str, force: tuple[str, ...], append: tuple[str, ...]
) -> None:
    (tmp_path / "somewhere").mkdir()
    path = put(kind, tmp_path / "out.fold", page.path)
    before = state(tmp_path)
    message = refused(cli("fold", page.path, "-o", path, *force, *append))
    assert ("one of the inputs" if kind in INPUTS else "it is a ") in message
    assert state(tmp_path) == before


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_fold_leaves_other_files_alone(cli: Cli, page: SimpleNamespace, tmp_path: Path, kind: str) -> None:
    path = put(kind, tmp_path / "out.fold", page.path)
    before = state(tmp_path)
    assert "out.fold exists already and is not a memory file" in refused(cli("fold", page.path, "-o", path))
    assert state(tmp_path) == before


@pytest.mark.usefixtures("no_model")
def test_a_document_in_a_folder_is_an_input(cli: Cli, page: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    page.path.rename(tmp_path / "texts" / "page.txt")
    before = state(tmp_path)
    assert "one of the inputs" in refused(cli("fold", "texts", "-o", "texts/page.txt", "--force"))
    assert state(tmp_path) == before


def test_a_file_of_the_model_is_an_input(cli: Cli, page: SimpleNamespace, model: tuple[str, str]) -> None:
    for arguments in (("fold", page.path, "-o", Path(model[1]) / "config.json"),):
        before = state(Path(model[1]))
        assert "one of the inputs" in refused(cli(*arguments, *model, "--force"))
        assert state(Path(model[1])) == before


@pytest.mark.parametrize("kind", FOREIGN)
def test_force_replaces_a_file_and_keeps_a_link(
    cli: Cli, page: SimpleNamespace, tmp_path: Path, model: tuple[str, str], kind: str
) -> None:
    path = put(kind, tmp_path / "out.fold", page.path)
    assert cli("fold", page.path, "-o", path, *model, "--force").code == 0
    assert open_memory(path).sources == ("page.txt",)
    assert path.is_symlink() == (kind != "file")
    assert not list(tmp_path.glob("*.partial"))


def test_what_is_replaced_keeps_its_permissions(cli: Cli, page: SimpleNamespace, model: tuple[str, str]) -> None:
    Path("other.txt").write_text("Another text.")
    path, new = Path("m.fold"), ("fold", page.path, "-o", "m.fold", *model)
    assert cli(*new).code == 0
    usual = path.stat().st_mode & 0o777
    for mode in (0o600, 0o640, 0o666):
        for change in (new, ("fold", "other.txt", "-o", "m.fold", *model, "--append"), (*new, "--force")):
            path.chmod(mode)
            assert cli(*change).code == 0
            assert path.stat().st_mode & 0o777 == mode
    assert cli("sample", "almanac", "--tokens", 300, "--questions", 1, "-o", "s").code == 0
    text = Path("s/document.txt")
    assert text.stat().st_mode & 0o777 == usual
    text.chmod(0o600)
    assert cli("sample", "almanac", "--tokens", 300, "--questions", 1, "-o", "s", "--force").code == 0
    assert text.stat().st_mode & 0o777 == 0o600


def test_a_memory_that_is_protected_from_writing_is_replaced_by_force_only(
    cli: Cli, page: SimpleNamespace, model: tuple[str, str]
) -> None:
    Path("other.txt").write_text("Another text.")
    assert cli("fold", page.path, "-o", "m.fold", *model).code == 0
    Path("m.fold").chmod(0o444)
    before = state(Path())
    for change in (("fold", page.path), ("fold", "other.txt", "--append")):
        message = refused(cli(*change, "-o", "m.fold", *model))
        assert message.startswith("m.fold is protected from writing; choose another name, or give --force")
    with pytest.raises(DataError, match="protected from writing"):
        memfold.open("m.fold", model=model[1]).save("m.fold")
    assert state(Path()) == before
    assert cli("fold", page.path, "-o", "m.fold", *model, "--force").code == 0


def test_a_memory_is_not_written_to_standard_output(cli: Cli, page: SimpleNamespace) -> None:
    assert refused(cli("fold", page.path, "-o", "-")).startswith("--out = '-' is not possible; allowed: the name of a")


def test_a_memory_is_replaced_by_one_of_the_same_documents_only(
    cli: Cli, page: SimpleNamespace, model: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("other.txt").write_text("Another text.")
    assert cli("fold", page.path, "-o", "m.fold", *model).code == 0
    assert cli("fold", page.path, "-o", "m.fold", *model, "--ratio", 4).code == 0
    before = state(Path())
    with monkeypatch.context() as patch:
        patch.setattr("memfold.session.load", lambda *_: pytest.fail("a model was loaded"))
        message = refused(cli("fold", "other.txt", "-o", "m.fold", *model))
        both = refused(cli("fold", "other.txt", page.path, "-o", "m.fold", *model))
    assert message == (
        "m.fold is a memory of other documents (page.txt); choose another name, give --append to add to it, or --force "
        "to replace it"
    )
    assert both == message
    assert state(Path()) == before
    assert cli("fold", "other.txt", "-o", "m.fold", *model, "--force").code == 0
    assert open_memory("m.fold").sources == ("other.txt",)


@pytest.mark.usefixtures("small_chunks")
def test_an_interrupted_fold_is_discarded_by_its_own_documents_or_force_only(
    cli: Cli, page: SimpleNamespace, model: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("other.txt").write_text("Another text.")
    plain, count = MemoryWriter.add, iter(range(9))

    def stopped(*arguments: Any) -> None:
        if next(count) == 2:
            raise KeyboardInterrupt
        plain(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryWriter, "add", stopped)
        assert "the partial fold is kept" in cli("fold", page.path, "-o", "m.fold", *model).message
    before = state(Path())
    message = refused(cli("fold", "other.txt", "-o", "m.fold", *model))
    assert message.startswith("m.fold.partial holds an interrupted fold of other documents (page.txt); ")
    assert state(Path()) == before
    assert "2 blocks" in cli("fold", page.path, "-o", "m.fold", *model).err
    assert cli("fold", "other.txt", "-o", "m.fold", *model, "--append").code == 0
    assert open_memory("m.fold").sources == ("page.txt", "other.txt")


def test_an_interruption_before_the_first_block_says_so(
    cli: Cli, page: SimpleNamespace, model: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MemoryWriter, "add", stopped)
    before = state(Path())
    result = cli("fold", page.path, "-o", "m.fold", *model)
    assert result.code == 130
    assert result.message == "interrupted before the first block was written; run the same command again"
    assert state(Path()) == before


def test_a_file_that_appears_during_a_fold_is_left_alone(
    cli: Cli, page: SimpleNamespace, model: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = MemoryWriter.finish

    def late(writer: MemoryWriter) -> None:
        Path("m.fold").write_text("mine")
        plain(writer)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryWriter, "finish", late)
        message = refused(cli("fold", page.path, "-o", "m.fold", *model))
    assert "was written by another program during the fold and is left as it is" in message
    assert "1 finished block is kept in m.fold.partial" in message
    assert Path("m.fold").read_text() == "mine"
    Path("m.fold").unlink()
    assert "1 block is already" in cli("fold", page.path, "-o", "m.fold", *model).err
    assert not Path("m.fold.partial").exists()


OUTPUTS = {  # command -> one of the files that it writes into its folder
    ("sample", "almanac", "--tokens", 300): "document.txt",
    ("sample", "almanac", "--tokens", 400): "questions.jsonl",
    ("bench", "fold"): "fold.json",
    ("bench", "first-token"): "first-token.png",
    ("eval", "almanac"): "table.md",
    ("eval", "needle"): "samples.jsonl",
    ("eval", "almanac", "--quick"): "photo.png",
    ("export", "tiny"): "config.json",
    ("train", "toy.toml"): "metrics.jsonl",
    ("train", "toy.toml", "--steps", 1): "model",
}
FORCED = ("sample", "bench")


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("kind", [*FOREIGN, *NO_FILES])
@pytest.mark.parametrize("command", OUTPUTS, ids=lambda command: f"{command[0]}-{OUTPUTS[command]}")
def test_files_in_the_folder_are_left_alone(
    cli: Cli, page: SimpleNamespace, tmp_path: Path, command: tuple[object, ...], kind: str
) -> None:
    Path("toy.toml").write_text(RECIPE)
    put(kind, tmp_path / "out" / OUTPUTS[command], page.path)
    before = state(tmp_path)
    forces = ((), ("--force",)) if command[0] in FORCED and kind in NO_FILES else ((),)
    for force in forces:
        refused(cli(*command, "--out", "out", *force))
        assert state(tmp_path) == before


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("kind", ["file", "pipe", "device", "lost link"])
@pytest.mark.parametrize("command", OUTPUTS, ids=lambda command: f"{command[0]}-{OUTPUTS[command]}")
def test_what_is_no_folder_is_left_alone(
    cli: Cli, page: SimpleNamespace, tmp_path: Path, command: tuple[object, ...], kind: str
) -> None:
    Path("toy.toml").write_text(RECIPE)
    put(kind, tmp_path / "out", page.path)
    before = state(tmp_path)
    message = refused(cli(*command, "--out", "out"))
    assert message.startswith("cannot make the folder out: it is a ")
    assert refused(cli(*command, "--out", "out/deeper")).startswith("cannot ")
    assert state(tmp_path) == before


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("kind", ["hard link", "link"])
def test_an_evaluation_does_not_replace_the_text_that_it_reads(
    cli: Cli, page: SimpleNamespace, tmp_path: Path, kind: str
) -> None:
    put(kind, tmp_path / "out" / "result.json", page.path)
    before = state(tmp_path)
    assert "one of the inputs" in refused(cli("eval", "needle", "--text", page.path, "--out", "out"))
    assert state(tmp_path) == before


def test_a_run_that_stopped_before_its_first_checkpoint_begins_again(tmp_path: Path) -> None:
    from memfold.core.errors import CheckpointError
    from memfold.training.checkpoint import Start, settle, start

    settle(tmp_path / "run", {"seed": 0}, Start())
    assert start(tmp_path / "run", {"seed": 0}, resume=False) == Start()
    with pytest.raises(CheckpointError, match="was started with seed = 0"):
        start(tmp_path / "run", {"seed": 1}, resume=False)


def test_python_keeps_the_same_rule(
    page: SimpleNamespace, models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memfold.api import fold_documents

    session, document = open_session("pooled", models["first"]), open_document(page.path)
    other = open_document(written(tmp_path / "other.txt", "Another text."))
    path = tmp_path / "m.fold"
    memory = fold_documents([document], session)
    for write in (lambda **named: memory.save(path, **named), lambda **named: fold_file([document], path, session)):
        path.write_text("mine")
        with pytest.raises(DataError, match="exists already and is not a memory file"):
            write()
    memory.save(path, force=True)
    memory.save(path, dtype="int8")
    fold_file([document], path, session)
    with pytest.raises(DataError, match="memory of other documents"):
        fold_documents([other], session).save(path)
    with pytest.raises(DataError, match="memory of other documents"):
        fold_file([other], path, session)
    with pytest.raises(DataError, match="one of the inputs"):
        fold_file([document], page.path, session, force=True)
    stored = open_stored(path)
    append_file([other], stored, session)
    append_file([other], stored, session)  # opened before it was there
    assert open_memory(path).sources == ("page.txt", "other.txt")


@pytest.mark.usefixtures("no_model")
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a file system that takes no files")
@pytest.mark.parametrize("command", list(OUTPUTS)[::2], ids=lambda command: command[0])
def test_a_place_that_takes_no_files_is_refused_before_anything_is_computed(
    cli: Cli, page: SimpleNamespace, command: tuple[object, ...]
) -> None:
    Path("toy.toml").write_text(RECIPE)
    for place in ("/proc/new", "/proc/self/new/deeper"):
        message = refused(cli(*command, "--out", place))
        assert message.startswith(f"cannot write {place}: ")
        assert message.endswith("; choose another place")
    message = refused(cli("fold", page.path, "-o", "/proc/new.fold"))
    assert message == "cannot write /proc/new.fold: No such file or directory; choose another place"


@pytest.mark.parametrize("what", ["sample", "fold", "export", "bench", "eval"])
def test_a_disk_that_takes_no_more_is_one_line(
    cli: Cli, page: SimpleNamespace, model: tuple[str, str], tmp_path: Path, what: str
) -> None:
    small = ("--lengths", 32, "--runs", 1, "--warmups", 0)
    commands: dict[str, tuple[object, ...]] = {
        "sample": ("sample", "almanac", "--tokens", 4000, "-o", "out"),
        "fold": ("fold", page.path, "-o", "out", *model),
        "export": ("export", model[1], "-o", "out"),
        "bench": ("bench", "first-token", *small, *model, "-o", "out"),
        "eval": ("eval", "reconstruction", "--lengths", 32, "--questions", 1, "--system", "full", *model, "-o", "out"),
    }
    with file_size_limit(2500):
        result = cli(*commands[what])
    assert result.code == 2, result
    message = next(line for line in result.err.splitlines() if line.startswith("memfold: "))
    assert "cannot write out" in message
    assert "File too large" in message
    assert not list(tmp_path.glob("out.*.partial"))
    if what != "bench":
        assert cli(*commands[what]).code == 0  # what is left is not in the way


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(30, "Read-only file system", "x")])
def test_any_other_failed_write_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr("memfold.cli.sizes.describe", failing)
    result = cli("inspect", "m.fold")
    assert result.code == 2
    assert result.message.startswith(f"cannot use {error.filename or 'the output'}: {error.strerror}; ")


def test_a_folder_that_fails_is_not_left(tmp_path: Path) -> None:
    def fail() -> None:
        with new_folder(tmp_path / "new") as folder:
            (folder / "half").write_text("half")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "new").mkdir()
    with new_folder(tmp_path / "new") as folder:
        (folder / "whole").write_text("whole")
    assert state(tmp_path).keys() == {"new", "new/whole"}
    with pytest.raises(DataError, match="not an empty folder"), new_folder(tmp_path / "new"):
        pass


def test_a_path_that_cannot_be_looked_at_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for path, said in [(tmp_path / "loop", "symbolic links"), (tmp_path / ("x" * 300), "too long")]:
        with pytest.raises(DataError, match=said):
            check_file(path)
