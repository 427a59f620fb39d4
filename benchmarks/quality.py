"""Every quality figure of the README, by the commands that anybody would type, gathered into one file.

    python benchmarks/quality.py --model tiny [--questions 1000] [--documents 20] [--trained 1024]

Writes quality-<cpu or gpu>.json to benchmarks/results/ and the tables beside it.  Takes hours on two cores and goes on
where it was stopped.  Left out: speed and memory (`folding.py`).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from memfold.cli.main import execute

RESULTS = Path(__file__).parent / "results"
SYSTEMS = ("full", "pooled:16", "pooled:4", "retrieval", "closed-book")
SHORT = (128, 256, 512, 1024)


def main() -> int:
    """Run all evaluations; the exit code of the first that fails."""
    arguments = _arguments()
    runs = {name: (command, arguments.out / name) for name, command in commands(arguments).items()}
    for command, folder in runs.values():
        line = ["eval", *command, "--model", arguments.model, "--device", arguments.device, "--out", str(folder)]
        print("memfold", *line, file=sys.stderr)
        code = execute(line)
        if code:
            return code
    results = {name: json.loads((folder / "result.json").read_text()) for name, (_, folder) in runs.items()}
    tables = [(folder / "table.md").read_text() for _, folder in runs.values()]
    _write(results, tables)
    return 0


def commands(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """What is measured: facts alone, all kinds of question in and out of distribution, longer texts, reconstruction."""
    systems = [part for name in SYSTEMS for part in ("--system", name)]
    few = [part for name in ("full", "pooled:16", "retrieval") for part in ("--system", name)]
    questions = ["--questions", str(arguments.questions)]
    long = [arguments.trained * factor for factor in (1, 4, 8)]
    return {
        "facts": ["almanac", *systems, "--level", "1", "--split", "in", "--lengths", _numbers(SHORT), *questions],
        "almanac-in": ["almanac", *systems, "--split", "in", "--lengths", _numbers(SHORT), *questions],
        "almanac-out": ["almanac", *systems, "--split", "out", "--lengths", _numbers(SHORT), *questions],
        "long": ["almanac", *few, "--level", "1", "--split", "in", "--lengths", _numbers(long), *questions],
        "reconstruction": ["reconstruction", "--system", "pooled:16", "--system", "pooled:4", "--questions",
                           str(arguments.documents * 5)],
    }  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--questions", type=int, default=1000, help="of each almanac run")
    parser.add_argument("--documents", type=int, default=20, help="of each length of the reconstruction run")
    parser.add_argument("--trained", type=int, default=1024, help="the longest documents of most of training")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"), help="samples and plots")
    return parser.parse_args()


def _write(results: dict[str, Any], tables: list[str]) -> None:
    machine = next(iter(results.values()))["hardware"]
    name = re.sub(r"[^a-z0-9]+", "-", machine.get("gpu", machine["cpu"]).lower()).strip("-")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"quality-{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / f"quality-{name}.md").write_text("\n".join(tables))
    print(f"written to {RESULTS}/quality-{name}.json and .md", file=sys.stderr)


def _numbers(values: tuple[int, ...] | list[int]) -> str:
    return ",".join(map(str, values))


if __name__ == "__main__":
    sys.exit(main())
