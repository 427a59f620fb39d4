"""Fold a folder of texts in this process, with one worker of Ray and with several, and compare the memories.

    python benchmarks/ray_fold.py [--files 200] [--tokens 1000] [--workers 2] [--model tiny]

Each way is a whole command, `memfold fold texts -o FOLDER/`, with one thread for each worker; they run one after
another.  `seconds` is the whole command, its start included; `folding` is without the start of the command, but with
that of Ray and of its workers, each of which loads the model.  `load` is the load average of the machine before the
command: what else it computed meanwhile.  `again` is the last command once more, when everything is folded.

The result is one JSON object, printed and written to benchmarks/results/ray-fold.json.  Ray is started by the command,
on this machine; the benchmark needs the extra `ray`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from random import Random
from typing import Any

import torch

from memfold.backbone.origin import commit, hardware
from memfold.core.outputs import write_text
from memfold.tasks.filler import sentence

RESULTS = Path(__file__).parent / "results"
CHARACTERS = 4  # of a token, about
DIGITS = 4  # of the figures


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
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr}")
    told = json.loads(done.stdout)
    return {
        "folded": len(told["folded"]),
        "kept": len(told["kept"]),
        "tokens": told["tokens"],
        "seconds": round(seconds, DIGITS),
        "folding": told["seconds"]["fold"],
        "load": round(load, 2),
    }


def _memories(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


if __name__ == "__main__":
    sys.exit(main())
