"""What needs no model is done without PyTorch: every command has refusals here, and they import neither it nor
`transformers`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_server import ChatServer, says

from memfold.cli import main
from memfold.core.types import Block, Memory
from memfold.memory import save_memory
from memfold.systems.pooled.system import Pooled

# Each command line runs in a process of its own, forked from one that has imported what commands import, but no model.
PROGRAM = """
import contextlib, io, json, os, sys
import memfold.api, memfold.cli.output, memfold.evaluation.runner, memfold.rl.recipe
from memfold.cli.main import execute
for line in json.load(sys.stdin):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        told = io.StringIO()
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            code = execute(line)
        heavy = [name for name in ("torch", "transformers") if name in sys.modules]
        print(json.dumps([line, code, heavy, told.getvalue()]), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""

# command line -> what the refusal says
REFUSALS = {
    "demo --model tinny": "unknown model 'tinny'; nearest: 'tiny'",
    "fold nothing.txt -o m.fold": "nothing.txt",
    "fold empty.txt -o m.fold": "empty.txt is empty",
    "fold text.txt -o text.txt": "is one of the inputs",
    "fold text.txt -o empty.txt": "exists already and is not a memory file",
    "fold text.txt -o other.fold": "is a memory of other documents",
    "fold text.txt -o m.fold --system poled": "unknown system 'poled'; nearest: 'pooled'",
    "fold text.txt -o m.fold --model no-one/nothing": "neither a folder nor in the local cache",
    "fold text.txt -o m.fold --device tpu": "device 'tpu' is not possible",
    "fold text.txt -o m.fold --dtype int7": "unknown memory dtype 'int7'; nearest: 'int8'",
    "fold text.txt -o m.fold --ratio 5": "ratio 5 is not one that model 'tiny' was trained at",
    "fold text.txt -o m.fold --system full --no-text": "leave --no-text",
    "fold nothing.txt -o made/": "nothing.txt does not exist",
    "fold text.txt -o made/ --engine rai": "unknown engine 'rai'; nearest: 'ray'",
    "fold text.txt -o made/ --workers 2": "--workers 2 is not possible in one process",
    "fold text.txt -o made/ --append": "--append is not possible with a memory of each file",
    "fold text.txt -o made/ --ratio 5": "ratio 5 is not one that model 'tiny' was trained at",
    "fold text.txt -o other.fold --append --system full": "this memory was made by system 'pooled', not 'full'",
    "ask nothing.txt Q": "nothing.txt",
    "ask nothing.fold Q": "no memory file at nothing.fold",
    "ask garbled.fold Q": "garbled.fold is not a memory file",
    "ask text.txt Q --system poled": "unknown system 'poled'",
    "ask text.txt Q --style brief": "unknown style 'brief'",
    "ask text.txt Q --model tinny": "unknown model 'tinny'",
    "ask text.txt Q --resume": "--resume goes on with the calls of a file",
    "ask text.txt Q --trace replies.jsonl": "replies.jsonl exists already; continue it with --resume",
    "ask text.txt Q --trace replies.jsonl --resume": "replies.jsonl, line 1 is not a line of a trace",
    "ask text.txt Q --ratio 5": "ratio 5 is not one that model 'tiny' was trained at",
    "ask text.txt Q --budget 0": "--budget = 0 is not possible",
    "ask text.txt --questions nothing.jsonl": "nothing.jsonl",
    "ask text.txt Q --system pooled --model http://127.0.0.1:9/v1#m": "an endpoint reads text, not slots",
    "ask other.fold Q": "and model 'tiny' cannot read its slots",
    "ask other.fold Q --system full": "this memory was made by system 'pooled', not 'full'",
    "ask other.fold Q --ratio 8": "this memory was folded at ratio 16, not 8",
    "models --jason": "No such option: --jason",
    "inspect nothing.fold": "no memory file at nothing.fold",
    "inspect damaged.fold": "damaged.fold is truncated",
    "inspect other.fold --wrong": "--wrong selects replies",
    "sample almanack -o made": "unknown task 'almanack'; nearest: 'almanac'",
    "sample almanac -o text.txt": "text.txt",
    "train nothing": "nothing",
    "train bad.toml": "unknown key 'stepps'; nearest: 'steps'",
    "train bad-rl.toml": "unknown key 'stepps'; nearest: 'steps'",
    "train good.toml --out begun": "already holds a run",
    "train good.toml --out new --resume": "nothing to resume in new",
    "train child.toml --out new": "no model in gone",
    "export tinny -o made": "unknown model 'tinny'",
    "export tiny -o .": "is not an empty folder",
    "export tiny -o made --dtype int7": "unknown dtype 'int7'",
    "export tiny -o made --merge": "--merge has no effect",
    "eval almanack": "unknown suite 'almanack'",
    "eval almanac --system poled": "unknown system 'poled'",
    "eval almanac --system pooled/windw=0": "unknown pooled setting 'windw'",
    "eval almanac --lengths none": "--lengths 'none' is not possible",
    "eval almanac --device tpu": "device 'tpu' is not possible",
    "bench folds": "unknown benchmark 'folds'",
    "bench fold --ratio 5": "ratio 5 is not one that model 'tiny' was trained at",
    "bench fold --architecture 8b": "unknown architecture '8b'",
}
# command lines that are done, not refused, and need no weights
DONE = (
    "models",
    "--help",
    "--version",
    "inspect other.fold",
    "inspect replies.jsonl",
    "sample almanac --tokens 300 -o made",
)

RECIPE = """
stage = "base"
steps = 1
{more}
[[mixture]]
task = "prose"
weight = 1
sizes = [64]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the command lines name."""
    place = tmp_path_factory.mktemp("light")
    (place / "text.txt").write_text("Ada was born in Velm.")
    (place / "empty.txt").write_text(" \n")
    block = Block(0, 0, 0, 16, 0, 4, torch.ones(1, 8), "Velm")
    memory = Memory("", "pooled", Pooled().settings, "0" * 64, ("other.txt",), [block], ("0" * 64,))
    save_memory(memory, place / "other.fold")
    (place / "garbled.fold").write_text("no memory")
    (place / "damaged.fold").write_bytes((place / "other.fold").read_bytes()[:-1])
    reply = {"case": "1", "system": "full", "kind": "", "question": "Q", "accepted": [], "reply": "A", "correct": True}
    (place / "replies.jsonl").write_text(json.dumps(reply) + "\n")
    (place / "good.toml").write_text(RECIPE.format(more="[model]"))
    (place / "child.toml").write_text(RECIPE.format(more='parent = "gone"'))
    (place / "bad.toml").write_text('stage = "base"\nstepps = 1\n')
    (place / "bad-rl.toml").write_text('stage = "rl"\nstepps = 1\n')
    (place / "begun" / "step-000001").mkdir(parents=True)
    return place


def run(folder: Path, lines: list[list[str]]) -> list[Any]:
    """Run command lines; of each, the line, the exit code, what was imported and what was printed."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(lines), capture_output=True, text=True, cwd=folder, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_command_has_refusals() -> None:
    assert {line.split()[0] for line in REFUSALS} == {module.NAME for module in main.COMMANDS}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_refusals_and_reports_import_no_torch(folder: Path, chat_server: ChatServer) -> None:
    chat_server.usual = says("Velm")
    endpoint = ["ask", "text.txt", "Where?", "--system", "full", "--model", f"{chat_server.url}#m"]
    lines = [line.split() for line in (*REFUSALS, *DONE)]
    results = run(folder, [*lines, endpoint])
    assert [result[0] for result in results] == [*lines, endpoint]
    for line, code, heavy, told in results:
        text = " ".join(line)
        assert heavy == [], f"{text} imports {heavy}"
        if text in REFUSALS:
            assert (code, len(told.splitlines())) == (2, 1), (text, told)
            assert REFUSALS[text] in told, text
        else:
            assert code == 0, (text, told)
