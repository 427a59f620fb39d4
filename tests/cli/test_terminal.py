"""Any terminal will do for every command: one that knows ASCII only, and one that writes to a full disk.

Documents, names and replies hold control characters; none of them reaches the terminal.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from command_result import Cli
from file_size_limit import file_size_limit

from memfold.cli.main import execute
from memfold.cli.printable import printable

UNSAFE = "\x1b[2J\x07\x9b\u202e\u2066\x7f\r\x00"
NAME = "od\x1b[31md \u202ename\u00e9.txt"
TEXT = (
    f"Ada Lorn was born in Velm{UNSAFE.replace(chr(0), '')}, a caf\u00e9 by the sea \U0001f600. She wrote 20 books. "
    * 4
)
TOKENIZER_PAGES = "memfold.training.tokenizer.PAGES"  # a few are enough here, and take a tenth of the time
RECIPE = """
stage = "base"
steps = 2
tokens = 64
micro_batches = 1
precision = "float32"
model = { vocabulary = 300, hidden = 16, layers = 1, heads = 2, feedforward = 16, window = 512 }
mixture = [{ task = "prose", system = "full", weight = 1, sizes = [64], level = 1 }]
"""
SMALL = ("--lengths", 64, "--questions", 1, "--system", "full")
TIMED = ("--lengths", 64, "--runs", 1, "--warmups", 0)
COMMANDS: dict[str, tuple[object, ...]] = {  # each prints to standard output, or to standard error
    "fold": ("fold", NAME, NAME, "-o", f"m{UNSAFE.replace(chr(0), '')}.fold"),
    "ask": ("ask", NAME, f"Who\u00e9{UNSAFE.replace(chr(0), '')}?"),
    "ask --json": ("ask", NAME, f"Who\u00e9{UNSAFE.replace(chr(0), '')}?", "--json"),
    "inspect": ("inspect", "whole.fold"),
    "inspect --json": ("inspect", "whole.fold", "--json"),
    "inspect replies": ("inspect", "replies.jsonl"),
    "eval": ("eval", "almanac", *SMALL, "-o", "eval\u00e9\x1b[31m"),
    "bench": ("bench", "fold", *TIMED, "--json", "-o", "bench\u00e9\x1b[31m"),
    "sample": ("sample", "almanac", "--tokens", 300, "-o", "sample\u00e9\x1b[31m"),
    "train": ("train", "toy.toml", "--out", "run\u00e9\x1b[31m"),
    "train --dry-run": ("train", "toy.toml", "--dry-run", "--out", "run\u00e9\x1b[31m"),
    "export": ("export", "MODEL", "-o", "export\u00e9\x1b[31m"),
    "error": ("ask", f"none\u00e9{UNSAFE.replace(chr(0), '')}.txt", "Who?"),
    "usage": ("fold", f"--none\u00e9{UNSAFE.replace(chr(0), '')}"),
    "help": ("--help",),
}
WITH_MODEL = ("fold", "ask", "ask --json", "eval", "bench", "error")


@pytest.fixture
def words(cli: Cli, model: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """The words of a command, with the files that it reads in the current folder."""
    Path(NAME).write_text(TEXT, encoding="utf-8")
    Path("toy.toml").write_text(RECIPE)
    monkeypatch.setattr("memfold.cli.training.LINE_SECONDS", 0.0)
    monkeypatch.setattr(TOKENIZER_PAGES, 16)
    record = {"case": UNSAFE, "system": UNSAFE, "kind": UNSAFE, "question": UNSAFE, "accepted": [UNSAFE]}
    record |= {"reply": TEXT + UNSAFE, "correct": False, "error": f"odd\n{UNSAFE}", "invented": [UNSAFE]}
    Path("replies.jsonl").write_text(json.dumps(record) + "\n")
    assert cli("fold", NAME, "-o", "whole.fold", *model).code == 0

    def make(name: str) -> list[str]:
        chosen = model if name in WITH_MODEL else ()
        return [model[1] if word == "MODEL" else str(word) for word in (*COMMANDS[name], *chosen)]

    return make


def shown(words: list[str], encoding: str) -> tuple[int, str, str]:
    """Run a command whose streams have an encoding; its exit code, and what it wrote."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        code = execute(words)
        texts = []
        for stream in streams:
            stream.flush()
            texts.append(stream.buffer.getvalue().decode(encoding))  # type: ignore[attr-defined]
    return code, *texts


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
@pytest.mark.parametrize("name", COMMANDS)
def test_no_control_character_is_printed(words: Callable[[str], list[str]], name: str, encoding: str) -> None:
    code, out, err = shown(words(name), encoding)
    assert code == (2 if name in ("error", "usage") else 0), err
    assert out or err
    for text in (out, err):
        assert printable(text) == text
        assert "\\x1b[31m" in text or "\x1b" not in text


def test_a_question_in_utf8_is_read_where_input_is_ascii(cli: Cli, model: tuple[str, str]) -> None:
    Path("a.txt").write_text("The caf\u00e9 is in Velm.", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys, "stdin", io.TextIOWrapper(io.BytesIO("Where is the caf\u00e9?\n".encode()), encoding="ascii")
        )
        assert execute(["ask", "a.txt", *map(str, model), "--json"]) == 0


WRITERS = [
    "ask",
    "ask --json",
    "inspect",
    "inspect --json",
    "inspect replies",
    "eval",
    "bench",
    "sample",
    "fold",
    "help",
]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
@pytest.mark.parametrize("name", WRITERS)
def test_an_output_that_takes_nothing_is_one_line(
    words: Callable[[str], list[str]], name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = words(name)
    capfd.readouterr()
    full = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115  (closing it writes what is left, and fails)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        code = execute(arguments)
    with suppress(OSError):
        full.close()
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("memfold: ")]
    assert (code, lines) == (
        2,
        ["memfold: cannot use the output: No space left on device; free some space and try again"],
    )


@pytest.mark.parametrize("size", [1000, 20_000])
def test_training_on_a_full_disk_is_one_line(
    cli: Cli, tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe of the run does not fit into the smaller size, the checkpoint not into the larger one."""
    monkeypatch.setattr(TOKENIZER_PAGES, 16)
    Path("toy.toml").write_text(RECIPE)
    with file_size_limit(size):
        result = cli("train", "toy.toml", "--out", "run")
    assert result.code == 2
    (message,) = (line for line in result.err.splitlines() if line.startswith("memfold: "))
    assert message.startswith("memfold: cannot write run")
    assert cli("train", "toy.toml", "--out", "run").code == 0
    assert not list(tmp_path.glob("run/*.partial"))
