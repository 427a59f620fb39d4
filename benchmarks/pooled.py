"""Everything that docs/results.md has a table of, part by part: speed and memory, then quality.

    python benchmarks/pooled.py [PART ...] [--model tiny] [--device cpu] [--quick] [-- OPTION ...]

Each part (`parts.py`) is one or two commands that anybody could type, run in a process of its own and gathered into
benchmarks/results/PART-MACHINE.json (with the model's name, unless it is the shipped one) beside the commands as they
were run, plots next to it; the page is then made anew.  What stands behind `--` is added to each command of the parts:
`fold growth -- --runs 5` overrides their runs; an option that may be repeated, as --system, gets one more.

A part that is there already is left alone (--again measures it once more), and an evaluation that stopped goes on with
the samples in --out.  --quick tries every part on a few short texts and keeps its results in --out.  Hours on two cores
without it.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import results as page
from parts import BY_NAME, PARTS, RESULTS, Part


def main() -> int:
    """Run the parts in their order; the exit code of the first that fails."""
    arguments = _arguments()
    results = arguments.out / "results" if arguments.quick else RESULTS
    for part in [part for part in PARTS if part.name in (arguments.parts or BY_NAME)]:
        lacking = _lacking(part, arguments)
        if lacking and part.name not in arguments.parts:
            print(f"{part.name}: left out, {lacking}", file=sys.stderr)
            continue
        if lacking:
            print(f"{part.name}: {lacking}", file=sys.stderr)
            return 2
        done = results / f"{part.name}-{_where(arguments)}.json"
        if done.exists() and not arguments.again:
            print(f"{part.name}: {done} is there already", file=sys.stderr)
            continue
        code = _measure(part, arguments, done)
        if code:
            return code
    if not arguments.quick:
        page.write(RESULTS)
    return 0


def _measure(part: Part, arguments: argparse.Namespace, done: Path) -> int:
    """Run the commands of a part and gather what they wrote."""
    found: dict[str, Any] = {}
    commands: dict[str, str] = {}
    plots: list[Path] = []
    for name, words in (part.quick if arguments.quick else part.commands).items():
        folder = arguments.out / part.name / name
        if words[0] == "bench":
            shutil.rmtree(folder, ignore_errors=True)
        line = [*words, *_model(part, name, arguments), *arguments.options]
        commands[name] = f"memfold {shlex.join(line)}"
        print(commands[name], file=sys.stderr)
        code = subprocess.run(
            [sys.executable, "-m", "memfold", *line, "--out", str(folder)], stdout=subprocess.DEVNULL, check=False
        ).returncode
        if code:
            return code
        written = folder / ("result.json" if words[0] == "eval" else f"{words[1]}.json")
        found[name] = json.loads(written.read_text(encoding="utf-8"))
        plots += sorted(folder.glob("*.png"))
    done.parent.mkdir(parents=True, exist_ok=True)
    names = [f"{done.stem}-{plot.name}" for plot in plots]
    for plot, name in zip(plots, names, strict=True):
        shutil.copyfile(plot, done.parent / name)
    gathered = {"part": part.name, "commands": commands, "options": arguments.options, "results": found, "plots": names}
    done.write_text(json.dumps(gathered, indent=1) + "\n", encoding="utf-8")
    return 0


def _model(part: Part, name: str, arguments: argparse.Namespace) -> Iterator[str]:
    """Which model runs where."""
    if part.needs == "cuda":
        yield from ("--device", "cuda")
        return
    slot = part.needs == "slot-model" and name == "slot"
    yield from ("--model", arguments.slot_model if slot else arguments.model, "--device", arguments.device)


def _lacking(part: Part, arguments: argparse.Namespace) -> str:
    """What a part needs and this run does not have; empty where it can run."""
    if part.needs == "slot-model" and arguments.slot_model is None:
        return "it needs a second model, trained with wrapper slot: --slot-model"
    if part.needs == "cuda":
        import torch

        return "" if torch.cuda.is_available() else "it needs a GPU"
    return ""


def _where(arguments: argparse.Namespace) -> str:
    """This machine in the names of files, and the model unless it is the shipped one."""
    import torch

    from memfold.backbone.origin import hardware

    found = hardware(torch.device(arguments.device))
    model = "" if arguments.model == "tiny" else f" {arguments.model}"
    return re.sub(r"[^a-z0-9.]+", "-", f"{found.get('gpu', found['cpu'])}{model}".lower()).strip("-")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(BY_NAME))
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--slot-model", help="a model trained with wrapper slot, for the part wrapper")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="try every part on a few short texts")
    parser.add_argument("--again", action="store_true", help="measure parts that are there already")
    parser.add_argument("--out", type=Path, default=Path("runs/pooled"), help="samples, plots and what --quick finds")
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    arguments = parser.parse_args(given[:end])
    arguments.options = given[end + 1 :]
    wrong = [name for name in arguments.parts if name not in BY_NAME]
    if wrong:
        parser.error(f"unknown part {wrong[0]!r}; known: {', '.join(BY_NAME)}")
    if arguments.quick:
        arguments.out = arguments.out / "quick"
    return arguments


if __name__ == "__main__":
    sys.exit(main())
