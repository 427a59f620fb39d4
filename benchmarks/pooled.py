"""Measure everything in docs/results.md, part by part: speed and memory, then quality.

    python benchmarks/pooled.py [PART ...] [--model tiny] [--device cpu] [--quick] [-- OPTION ...]

A part (`parts.py`) is one or two commands, each run in a separate process.  Its results are written to
benchmarks/results/PART-MACHINE.json, with the commands as they were run and the plots beside it; the name has the model
unless it is the shipped one.  Then the page is written.  Options after `--` are appended to each command:
`fold growth -- --runs 5` overrides the number of runs, and an option that may be repeated, such as --system, is added.

A part that has been measured is skipped; --again measures it again.  An interrupted evaluation resumes from the samples
in --out.  --quick tries every part on a few short texts and keeps the results in --out.  Without it all parts take
hours on two cores.
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

from memfold.core.outputs import whole_file, write_text
from memfold.endpoint.model import is_address


def main() -> int:
    """Run the parts in order; the exit code is that of the first that fails."""
    arguments = _arguments()
    results = arguments.out / "results" if arguments.quick else RESULTS
    for part in [part for part in PARTS if part.name in (arguments.parts or BY_NAME)]:
        missing = _missing(part, arguments)
        if missing and part.name not in arguments.parts:
            print(f"{part.name}: skipped, {missing}", file=sys.stderr)
            continue
        if missing:
            print(f"{part.name}: {missing}", file=sys.stderr)
            return 2
        path = results / f"{part.name}-{_machine(arguments)}.json"
        if path.exists() and not arguments.again:
            print(f"{part.name}: skipped, {path} exists", file=sys.stderr)
            continue
        code = _measure(part, arguments, path)
        if code:
            return code
    if not arguments.quick:
        page.write(RESULTS)
    return 0


def _measure(part: Part, arguments: argparse.Namespace, path: Path) -> int:
    """Run the commands of a part and write their results to one file."""
    measured: dict[str, Any] = {}
    commands: dict[str, str] = {}
    plots: dict[str, Path] = {}
    for name, words in (part.quick if arguments.quick else part.commands).items():
        folder = arguments.out / part.name / name
        if words[0] == "bench":
            shutil.rmtree(folder, ignore_errors=True)
        line = [*words, *_model(part, name, arguments), *arguments.options]
        commands[name] = f"{part.program} {shlex.join(line)}"
        print(commands[name], file=sys.stderr)
        program = [str(Path(__file__).with_name(part.script))] if part.script else ["-m", "memfold"]
        command = [sys.executable, *program, *line, "--out", str(folder)]
        code = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
        if code:
            return code
        written = folder / (f"{words[1]}.json" if words[0] == "bench" else "result.json")
        measured[name] = json.loads(written.read_text(encoding="utf-8"))
        for plot in sorted(folder.glob("*.png")):  # commands of a part may draw plots of the same name
            plots[f"{path.stem}-{name}-{plot.name}" if len(part.commands) > 1 else f"{path.stem}-{plot.name}"] = plot
    path.parent.mkdir(parents=True, exist_ok=True)
    for drawn, plot in plots.items():
        with whole_file(path.parent / drawn) as partial:
            shutil.copyfile(plot, partial)
    content = {
        "part": part.name,
        "commands": commands,
        "options": arguments.options,
        "results": measured,
        "plots": list(plots),
    }
    write_text(path, json.dumps(content, indent=1) + "\n")
    return 0


def _model(part: Part, name: str, arguments: argparse.Namespace) -> Iterator[str]:
    """The options for the model and the device."""
    if part.needs == "cuda":
        yield from ("--device", "cuda")
        return
    slot = part.needs == "slot-model" and name == "slot"
    model = arguments.slot_model if slot else arguments.model
    yield from ("--model", model)
    if not is_address(model):  # an endpoint chooses its own device
        yield from ("--device", arguments.device)


def _missing(part: Part, arguments: argparse.Namespace) -> str:
    """What a part needs and this run does not have; empty if the part can run."""
    if part.needs == "slot-model" and arguments.slot_model is None:
        return "it needs a second model, trained with wrapper slot: --slot-model"
    if part.needs == "cuda":
        import torch

        return "" if torch.cuda.is_available() else "it needs a GPU"
    return ""


def _machine(arguments: argparse.Namespace) -> str:
    """The machine as file names have it, with the model unless it is the shipped one."""
    import torch

    from memfold.backbone.origin import hardware

    machine = hardware(torch.device(arguments.device))
    model = "" if arguments.model == "tiny" else f" {arguments.model}"
    return re.sub(r"[^a-z0-9.]+", "-", f"{machine.get('gpu', machine['cpu'])}{model}".lower()).strip("-")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(BY_NAME))
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--slot-model", help="a model trained with wrapper slot, for the part wrapper")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="try every part on a few short texts")
    parser.add_argument("--again", action="store_true", help="measure parts that have a result already")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/pooled"), help="samples, plots and the results of --quick"
    )
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    arguments = parser.parse_args(words[:end])
    arguments.options = words[end + 1 :]
    unknown = [name for name in arguments.parts if name not in BY_NAME]
    if unknown:
        parser.error(f"unknown part {unknown[0]!r}; known: {', '.join(BY_NAME)}")
    if arguments.quick:
        arguments.out = arguments.out / "quick"
    return arguments


if __name__ == "__main__":
    sys.exit(main())
