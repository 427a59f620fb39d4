"""Measure the peak memory of a question about a long text, with each system in a process of its own.

    python benchmarks/asking.py [--tokens 131072] [--model tiny] [--system LABEL ...]

A document of the suite `ruler-hqa` is folded, and `memfold ask` answers one question about the memory file.  Memory
above the weights is the peak of that command minus its peak for a text of one sentence.  A label is a system with its
settings, as in `memfold eval` (without a style).  `seconds` are those of the whole command, its start included, on a
machine that may have other work.  The result is one JSON object, printed and written to
benchmarks/results/asking-<cpu>.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from command import NO_ANSWER, measured_command
from result_file import write_result

from memfold.core.errors import MemfoldError
from memfold.core.registry import system_class
from memfold.evaluation.suite import document_seed
from memfold.session import load
from memfold.tasks.almanac.spread import KINDS, spread
from memfold.tasks.task import TaskOptions

SYSTEMS = ("kvbank", "kvbank/ahead=8", "kvbank/candidates=8", "recurrent/passes=1", "pooled/chunk=512/candidates=8")
SENTENCE = "The town of Velm was founded in 1733.\n"


def main() -> int:
    """Measure each system."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--tokens", type=int, default=131072)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--system", action="append", help=f"repeatable; by default {', '.join(SYSTEMS)}")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    try:
        model = load(arguments.model)
        seed = document_seed("asking", arguments.seed, arguments.tokens)
        sample = spread(seed, arguments.tokens, TaskOptions(kinds=KINDS), model.encode)[0]
    except MemfoldError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measure(label, sample.document.read(), sample.question, arguments.model, Path(folder))
            for label in arguments.system or SYSTEMS
        ]
    measured = {"tokens": arguments.tokens, "question": sample.question, "answers": sample.answers, "systems": rows}
    write_result("asking", model, "cpu", measured, arguments.out)
    return 0


def measure(label: str, text: str, question: str, model: str, folder: Path) -> dict[str, Any]:
    """Return what a question costs with one system, and how much memory it takes above that for one sentence."""
    base = ask(label, SENTENCE, question, model, folder)
    asked = ask(label, text, question, model, folder)
    above = asked["peak_bytes"] - base["peak_bytes"]
    return {"system": label} | asked | {"weights_bytes": base["peak_bytes"], "above_weights_bytes": above}


def ask(label: str, text: str, question: str, model: str, folder: Path) -> dict[str, Any]:
    """Fold a text with a system and its settings, then ask in a separate process."""
    system, *settings = label.split("/")
    reading = {field.name for field in fields(system_class(system).groups[1])}
    asked = [setting for setting in settings if setting.partition("=")[0] in reading]
    source, memory = folder / "document.txt", folder / "document.fold"
    source.write_text(text, encoding="utf-8")
    memory.unlink(missing_ok=True)
    measured_command("fold", str(source), "-o", str(memory), "--system", system, "--model", model, *_set(settings))
    words = ("ask", str(memory), question, "--model", model, *_set(asked))
    response, costs = measured_command(*words, accepted=(0, NO_ANSWER))
    return costs | {"answer": response["answer"], "calls": response["usage"]["calls"]}


def _set(settings: Sequence[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


if __name__ == "__main__":
    sys.exit(main())
