"""Fold a folder of texts in this process, with one worker of Ray and with several, and compare the memories.

    python benchmarks/ray_fold.py [--files 200] [--tokens 1000] [--workers 2] [--model tiny]

Each way is a whole command, `memfold fold texts -o FOLDER/`, with one thread for each worker; they run one after
another.  `seconds` is the whole command, its start included; `folding` is without the start of the command, but with
that of Ray and of its workers, each of which loads the model.  `processor` is the CPU seconds of the command and of all
processes that it started, which can be compared on a machine that computes something else, too; `load` is its load
average before the command.  `again` is the last command once more, when everything is folded.

The result is one JSON object, printed and written to benchmarks/results/ray-fold.json.  Ray is started by the command,
on this machine; the benchmark needs the extras `ray` and `train` (psutil).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from random import Random
from typing import Any

import psutil
import torch

from memfold.backbone.origin import commit, hardware
from memfold.core.outputs import write_text
from memfold.tasks.filler import sentence

RESULTS = Path(__file__).parent / "results"
CHARACTERS = 4  # of a token, about
DIGITS = 1  # behind the point
SAMPLED = 0.2  # seconds between two looks at the CPU seconds


def main() -> int:
    """Measure; the exit code is 1 if the memories differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=1000, help="of each file, about")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--out", type=Path, default=RESULTS / "ray-fold.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    given = f"--files {arguments.files} --tokens {arguments.tokens} --workers {arguments.workers}"
    result = {
        "command": f"python benchmarks/ray_fold.py {given} --model {arguments.model}",
        "commit": commit(),
        "hardware": hardware(torch.device("cpu")) | {"ray": metadata.version("ray")},
        "model": arguments.model,
    } | measure(arguments.files, arguments.tokens, arguments.workers, arguments.model)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(arguments.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return int(not result["equal"])


def measure(files: int, tokens: int, workers: int, model: str) -> dict[str, Any]:
    """Fold the texts in every way, each into a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_texts(place / "texts", files, tokens)
        chosen = ["--model", model]
        plain = fold(place, "plain", chosen)
        one = fold(place, "one", [*chosen, "--engine", "ray", "--workers", "1"])
        several = fold(place, "several", [*chosen, "--engine", "ray", "--workers", str(workers)])
        again = fold(place, "several", [*chosen, "--engine", "ray", "--workers", str(workers)])
        memories = [_memories(place / name) for name in ("plain", "one", "several")]
    return {
        "files": plain["folded"],
        "tokens": plain["tokens"],
        "plain": plain,
        "one worker": one,
        f"{workers} workers": several,
        "again": again,
        "equal": len(memories[0]) == files and memories[0] == memories[1] == memories[2],
    }


def write_texts(folder: Path, files: int, tokens: int) -> None:
    """Write texts of about as many tokens each, all of them different."""
    folder.mkdir()
    for number in range(files):
        rng, text = Random(number), ""
        while len(text) < CHARACTERS * tokens:
            text += sentence(rng) + " "
        (folder / f"{number:04}.txt").write_text(text, encoding="utf-8")


def fold(place: Path, name: str, options: list[str]) -> dict[str, Any]:
    """Run one command, and return its times and what it counted."""
    command = [sys.executable, "-m", "memfold", "fold", "texts", "-o", f"{name}/", "--json", *options]
    load, started = os.getloadavg()[0], time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    out, spent = place / f"{name}.json", {}
    with out.open("w") as file:
        process = psutil.Popen(command, cwd=place, env=environment, stdout=file)
        while process.poll() is None:
            spent |= _spent(process)
            time.sleep(SAMPLED)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    told = json.loads(out.read_text())
    return {
        "folded": len(told["folded"]),
        "kept": len(told["kept"]),
        "tokens": told["tokens"],
        "seconds": round(seconds, DIGITS),
        "folding": round(told["seconds"]["fold"], DIGITS),
        "processor": round(sum(spent.values()), DIGITS),
        "load": round(load, 2),
    }


def _spent(process: psutil.Process) -> dict[int, float]:
    """The CPU seconds so far of a process and of those that it started, by their numbers."""
    found = {}
    with suppress(psutil.NoSuchProcess):
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                found[each.pid] = times.user + times.system
    return found


def _memories(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


if __name__ == "__main__":
    sys.exit(main())
