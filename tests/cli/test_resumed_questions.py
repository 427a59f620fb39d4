"""`memfold ask --trace --resume`: a process that is killed while it reads leaves its calls to the next one."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, fails, says
from command_result import Cli
from rich.console import Console

from memfold.backbone import policy
from memfold.cli import reading
from memfold.cli.steps import describe
from memfold.core.types import Block, BlockRef, Call, Memory, Reply, Step

TEXT = "Ada Lorn was born in Velm. Bel sells wool. The river Sanu flows through Tor.\n" * 12
QUESTION = "Where was Ada Lorn born?"
ASK = ("ask", "notes.txt", QUESTION, "--system", "recurrent", "--set", "chunk=64", "--set", "passes=1")
SHORT = ("--set", "note=6", "--max-tokens", 6)  # tokens of each reply


@pytest.fixture(autouse=True)
def short_replies() -> None:
    """Replies are those of the command, in every process."""


@pytest.fixture(autouse=True)
def notes() -> None:
    Path("notes.txt").write_text(TEXT, encoding="utf-8")


@pytest.fixture(autouse=True)
def in_an_empty_folder(cli: Cli, notes: None) -> None:
    """So that all files of a test are in the folder of its commands."""


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The replies that this process has begun to decode."""
    plain, rows = policy.DecodingRow, list[Any]()

    def row(*arguments: Any) -> Any:
        rows.append(arguments)
        return plain(*arguments)

    monkeypatch.setattr(policy, "DecodingRow", row)
    return rows


def events(name: str) -> list[str]:
    """The kinds of the whole lines of a file."""
    whole = Path(name).read_bytes().split(b"\n")[:-1] if Path(name).exists() else []
    return [json.loads(line)["event"] for line in whole]


def cut(name: str, lines: int, to: str) -> bytes:
    """Keep the first lines of a file, as a kill does."""
    data = b"".join(Path(name).read_bytes().splitlines(keepends=True)[:lines])
    Path(to).write_bytes(data)
    return data


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "seconds"}


def calls(name: str) -> list[Any]:
    """The calls of a file, each with the tokens of its reply."""
    whole = map(json.loads, Path(name).read_text().splitlines())
    return [(line["number"], line["call"], line["reply"]["tokens"]) for line in whole if line["event"] == "call"]


def ask_and_kill(name: str) -> None:
    """Ask in a process of its own, which is killed once a few calls are stored."""
    command = [sys.executable, "-m", "memfold", *map(str, (*ASK, *SHORT)), "--trace", name]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while events(name).count("call") < 2 and process.poll() is None:
            time.sleep(0.002)
        process.kill()
        process.wait()
    assert process.returncode != 0, "it was not killed"


def test_a_killed_process_keeps_its_calls_and_the_next_one_makes_the_others(cli: Cli, made: list[Any]) -> None:
    ask_and_kill("killed.jsonl")
    kept = events("killed.jsonl").count("call")
    whole = cli(*ASK, *SHORT, "--trace", "whole.jsonl", "--json").record
    count = events("whole.jsonl").count("call")
    assert 2 <= kept < count
    shown = cli("inspect", "killed.jsonl").out
    assert shown.startswith(f"question 1 (recurrent): unfinished, calls so far: {kept}\n  question  {QUESTION}\n")
    assert shown.count("  step      ") == kept
    assert "reply" not in shown
    made.clear()
    resumed = cli(*ASK, *SHORT, "--trace", "killed.jsonl", "--resume", "--json")
    assert resumed.err == f"continuing an interrupted reading: {kept} calls are already stored\n"
    assert len(made) == count - kept
    assert without_times(resumed.record) == without_times(whole)
    assert calls("killed.jsonl") == calls("whole.jsonl")
    assert cli("inspect", "killed.jsonl").out == cli("inspect", "whole.jsonl").out


def test_an_interruption_says_how_to_go_on(cli: Cli, made: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = policy.DecodingRow

    def row(*arguments: Any) -> Any:
        if len(made) == 2:
            raise KeyboardInterrupt
        return plain(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(policy, "DecodingRow", row)
        stopped = cli(*ASK, *SHORT, "--trace", "a.jsonl")
        assert (stopped.code, stopped.message) == (
            130,
            "interrupted; the calls so far are in a.jsonl; add --resume to go on",
        )
        made.clear()
        made += [None, None]
        assert cli(*ASK, *SHORT, "--trace", "none.jsonl").message == "interrupted", "there are no calls"
    assert events("a.jsonl") == ["asked", "call", "call"]
    assert not Path("none.jsonl").exists()
    resumed = cli(*ASK, *SHORT, "--trace", "a.jsonl", "--resume")
    assert (resumed.code, resumed.err) == (0, "continuing an interrupted reading: 2 calls are already stored\n")


def test_what_does_not_match_is_one_line_and_changes_nothing(cli: Cli, made: list[Any]) -> None:
    assert cli(*ASK, *SHORT, "--trace", "a.jsonl").code == 0
    before = cut("a.jsonl", 3, "a.jsonl")
    Path("more.txt").write_text(TEXT + "More.")
    Path("q.jsonl").write_text(json.dumps({"question": QUESTION}) + "\n" + json.dumps({"question": "Who?"}) + "\n")
    asked = list(map(str, ASK))
    otherwise = "; ask as it was asked, or give another name"
    resume = ("--trace", "a.jsonl", "--resume")
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((*asked[:2], "Who?", *asked[3:], *SHORT, *resume), f"for the question '{QUESTION}', not 'Who?'{otherwise}"),
        ((asked[0], "more.txt", *asked[2:], *SHORT, *resume), f"about other documents than these{otherwise}"),
        ((*ASK, "--set", "note=7", "--max-tokens", 6, *resume), f"with note = 6, not 7{otherwise}"),
        ((*ASK, "--set", "note=6", "--max-tokens", 5, *resume), f"with max_tokens = 6, not 5{otherwise}"),
        ((*asked[:3], "--system", "full", *resume), f"of system 'recurrent', not 'full'{otherwise}"),
        ((*ASK, *SHORT, "--trace", "a.jsonl"), "a.jsonl exists already; continue it with --resume (resume=True), or"),
        ((*ASK, *SHORT, "--trace", "b.jsonl", "--resume"), "there is no b.jsonl to continue; leave --resume"),
        ((*ASK, "--resume"), "--resume goes on with the calls of a file; give --trace FILE, too"),
        ((*asked[:2], *resume), "--trace a.jsonl records answers to QUESTION or --questions; give one of them"),
        ((*ASK, "--trace", "q.jsonl", "--resume"), "q.jsonl, line 1 is not a line of a trace; give a file that"),
    ]
    made.clear()
    for arguments, message in cases:
        result = cli(*arguments)
        assert (result.code, message in result.message) == (2, True), result.message
        assert Path("a.jsonl").read_bytes() == before
    assert made == []
    questions = ("ask", "notes.txt", "--questions", "q.jsonl", *asked[3:], *SHORT, *resume)
    lines = cli(*questions).out.splitlines()
    assert [json.loads(line)["question"] for line in lines] == [QUESTION, "Who?"], "one more question may be asked"


def test_an_endpoint_that_fails_is_asked_for_the_rest_later(cli: Cli, chat_server: ChatServer) -> None:
    command = (*ASK, "--model", f"{chat_server.url}#some-model", "--trace", "a.jsonl")
    chat_server.plan = [says("Ada Lorn was born in Velm."), says("Ada Lorn was born in Velm. Bel sells wool.")]
    chat_server.usual = fails(401, "no credit is left")
    failed = cli(*command)
    kept = "the calls so far are in a.jsonl; add --resume to go on"
    assert (failed.code, failed.message.startswith("policy: "), failed.message.endswith(f"; {kept}")) == (1, True, True)
    shown = cli("inspect", "a.jsonl").out
    assert "no reward, error: policy: " in shown
    assert "step      2, update, block 1: 3 tokens (stop) Ada Lorn was born in Velm. Bel sells wool.\n" in shown
    chat_server.asked.clear()
    chat_server.usual = says("Velm, it is.")
    resumed = cli(*command, "--resume")
    assert (resumed.code, resumed.err) == (0, "continuing an interrupted reading: 2 calls are already stored\n")
    first = chat_server.messages[0]
    assert "Ada Lorn was born in Velm. Bel sells wool.\n\nText, part 3 of " in first
    steps = cli("inspect", "a.jsonl", "--json").record["replies"][0]["trace"]["steps"]
    assert len(chat_server.asked) == len(steps) - 2
    elsewhere = cli(*ASK, "--model", f"{chat_server.url}#other", "--trace", "a.jsonl", "--resume").message
    models = [f"'{name}' ({chat_server.url}#{name})" for name in ("some-model", "other")]
    assert f"a.jsonl holds calls of model {models[0]}, not {models[1]}; ask as it was asked" in elsewhere


def test_the_calls_of_a_file_of_questions_are_stored_and_continued(cli: Cli, made: list[Any]) -> None:
    asked = [QUESTION, "Who sells wool?"]
    Path("q.jsonl").write_text("".join(json.dumps({"question": each}) + "\n" for each in asked))
    command = ("ask", "notes.txt", "--questions", "q.jsonl", *ASK[3:], *SHORT, "--trace")
    whole = [json.loads(line) for line in cli(*command, "a.jsonl").out.splitlines()]
    count = len(made)
    shown = cli("inspect", "a.jsonl").out
    assert [line for line in shown.splitlines() if line.startswith("question")] == [
        "question 1 (recurrent)",
        "question 2 (recurrent)",
    ]
    made.clear()
    cut("a.jsonl", 7, "b.jsonl")
    kept = events("b.jsonl").count("call")
    result = cli(*command, "b.jsonl", "--resume")
    assert result.err == f"continuing an interrupted reading: {kept} calls are already stored\n"
    assert list(map(without_times, map(json.loads, result.out.splitlines()))) == list(map(without_times, whole))
    assert len(made) == count - kept


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Standard error, as a terminal; the text is long enough to show how far its reading is."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, highlight=False, width=120)
    monkeypatch.setattr(reading, "notes", lambda: console)
    monkeypatch.setattr(reading, "BAR", len(TEXT))
    return stream


def test_a_terminal_shows_how_far_a_long_reading_is(
    cli: Cli, terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = ("ask", "notes.txt", QUESTION, "--system", "full", "--max-tokens", 2)
    assert cli(*full).code == 0
    assert "reading 0 calls, 0 of 1 blocks read," in terminal.getvalue()
    for length, options in ((len(TEXT), ("--json",)), (len(TEXT) + 1, ())):
        monkeypatch.setattr(reading, "BAR", length)
        terminal.truncate(0)
        assert cli(*full, *options).code == 0
        assert "reading" not in terminal.getvalue()


def test_nothing_is_shown_where_standard_error_is_no_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BAR", 0)
    assert cli(*ASK, *SHORT).err == ""


def step(purpose: str, block: int | None, text: str = "", tokens: int = 0) -> Step:
    parts = () if block is None else (BlockRef("m", block),)
    return Step(Call(purpose, parts), Reply(text, tuple(range(tokens))))


def test_calls_blocks_and_the_note_are_counted(terminal: io.StringIO) -> None:
    blocks = [Block(index, 0, 0, 9, 0, len(TEXT), text="") for index in range(4)]
    memory = Memory("m", "recurrent", {}, "", ("a.txt",), blocks)
    with reading.reading(memory, stored=1) as shown:
        assert str(shown) == "0 calls, 0 of 4 blocks read,"
        counted = [
            (step("gate", 0), "1 call, 1 of 4 blocks read,"),
            (step("gate", 1), "2 calls, 2 of 4 blocks read,"),
            (step("update", 1, "Ada.", 7), "3 calls, 2 of 4 blocks read, a note of 7 tokens,"),
            (step("update", 2, " \n", 3), "4 calls, 3 of 4 blocks read, a note of 7 tokens,"),
            (step("answer", None, "Velm", 2), "5 calls, 3 of 4 blocks read, a note of 7 tokens,"),
        ]
        for each, line in counted:
            shown(each)
            assert str(shown) == line
    assert terminal.getvalue().count("continuing an interrupted reading: 1 call is already stored") == 1


def gated(block: int, **reply: Any) -> dict[str, Any]:
    return {"call": {"purpose": "gate", "parts": [{"memory": "m", "index": block}]}, "reply": {"score": None} | reply}


def test_of_an_unfinished_trace_the_last_blocks_are_not_decided_yet() -> None:
    """A block with one of two calls has no score."""
    note = {"purpose": "update", "parts": [{"memory": "m", "index": 0}]}
    written = {"call": note, "reply": {"text": "Ada.", "tokens": [1], "finish": "stop"}}
    yes, no = {"logprobs": [-0.1]}, {"logprobs": [-2.1]}
    first = [gated(0, score=3.0), written]
    opened = [("gate", "block 0: opened, score 0.95"), ("step", "1, update, block 0: 1 tokens (stop) Ada.")]
    pairs = [gated(1, **no), gated(1, **yes), gated(2, **yes), gated(2, **no), gated(3, **yes)]
    undecided = [("gate", "2 blocks, 1 to 2: not decided yet, score at most 0.88")]
    assert describe([*first, *pairs], unfinished=True) == [*opened, ("", "+ Ada."), *undecided]
    assert describe(first, unfinished=True) == [*opened, ("", "+ Ada.")]
    assert describe([], unfinished=True) == []
