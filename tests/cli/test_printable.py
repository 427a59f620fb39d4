"""What a document, a name or a reply holds neither controls a terminal nor stops a command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from command_result import Cli

from memfold.cli.output import screen
from memfold.cli.printable import printable

UNSAFE = "a\x1b[2J\x07b\x9bc\u202ed\u2066e\x7ff\rg"


def test_control_characters_are_escaped() -> None:
    assert printable(UNSAFE) == r"a\x1b[2J\x07b\x9bc\u202ed\u2066e\x7ff\rg"
    assert printable("a\tb\r\nc\n\u00e9 \U0001f600 \u2067\ud800") == "a\tb\nc\n\u00e9 \U0001f600 \\u2067\\ud800"


def test_what_is_printed_is_safe(cli: Cli, model: tuple[str, str]) -> None:
    Path("page.txt").write_text(f"Ada Lorn was born in Velm{UNSAFE}. She is a writer.")
    os.rename("page.txt", "odd\x1b[31m.txt")
    result = cli("ask", "odd\x1b[31m.txt", "Where was Ada Lorn born?", *model, "--system", "retrieval")
    assert result.code == 0
    assert r"odd\x1b[31m.txt, characters" in result.out
    assert r"\u202e" in result.out
    assert printable(result.out) == result.out
    failed = cli("ask", "none\x1b[31m.txt", "Who?", *model)
    assert failed.message.startswith(r"none\x1b[31m.txt does not exist")
    encoded = cli("ask", "odd\x1b[31m.txt", "Where was Ada Lorn born?", *model, "--json").out
    assert printable(encoded) == encoded
    assert json.loads(encoded)["citations"][0]["source"] == "odd\x1b[31m.txt"


def test_replies_and_names_in_recorded_files_are_safe(cli: Cli) -> None:
    record = {"case": "a\x1b", "system": "s", "kind": "", "question": "Q\x9b", "accepted": ["\u202e"], "reply": UNSAFE}
    spans = [{"start": 0, "end": 3, "source_start": 0, "source_end": 3, "same": 1, "tokens": 1}]
    Path("r.jsonl").write_text(json.dumps(record | {"correct": True, "expansions": spans}, ensure_ascii=False) + "\n")
    shown = cli("inspect", "r.jsonl").out
    assert printable(shown) == shown
    assert "\u27e6a\\x1b[\u27e72J" in shown


def test_any_encoding_of_the_terminal_will_do(tmp_path: Path) -> None:
    code = (
        "from memfold.cli.printable import escape_what_streams_cannot_encode as escape; escape()\n"
        "from memfold.cli.output import screen, print_json\n"
        "screen().print('caf\\u00e9 \\u27e6 \\ud800', markup=False)\n"
        "print_json({'a': 'caf\\u00e9 \\U0001f600 \\ud800'})\n"
    )
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True)
    plain, encoded = done.stdout.decode("ascii").splitlines()
    assert plain == "caf\\xe9 \\u27e6 \\ud800"
    assert json.loads(encoded) == {"a": "caf\u00e9 \U0001f600 \ud800"}
    missing = [sys.executable, "-m", "memfold", "ask", "caf\u00e9.txt", "Who?"]
    done = subprocess.run(missing, capture_output=True, env=environment, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)


def test_styles_of_rich_still_work() -> None:
    console = screen()
    with console.capture() as captured:
        console.print("[bold]a[/]\x1b", style="dim")
    assert "\\x1b" in captured.get()
