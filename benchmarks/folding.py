"""Measure folding: peak memory with a text of 1 MB and of 10 MB, tokens per second, and the size of the memory file.

    python benchmarks/folding.py --model tiny [--megabytes 1 10]

Each fold runs in a separate process.  Memory above the weights is its peak minus the peak of folding one sentence.
The result is one JSON object, printed and written to benchmarks/results/folding-<cpu>.json.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from command import measured_command

from memfold.backbone.origin import commit, hardware
from memfold.core.outputs import write_text
from memfold.tasks.table import load_task
from memfold.tasks.task import TaskOptions

RESULTS = Path(__file__).parent / "results"
PAGE_WORDS = 4000
SEED = 1 << 42


def main() -> None:
    """Fold one sentence, then each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--megabytes", type=float, nargs="+", default=[1, 10])
    arguments = parser.parse_args()
    machine = hardware(torch.device("cpu"))
    result: dict[str, Any] = {"commit": commit(), "hardware": machine, "model": arguments.model}
    with tempfile.TemporaryDirectory() as folder:
        base = fold(Path(folder), "The town of Velm was founded in 1733.\n", arguments.model)
        result |= {"weights_bytes": base["peak_bytes"], "folds": []}
        for megabytes in arguments.megabytes:
            measured = fold(Path(folder), text(int(megabytes * 1e6)), arguments.model)
            above = measured["peak_bytes"] - base["peak_bytes"]
            result["folds"].append(measured | {"megabytes": megabytes, "above_weights_bytes": above})
    RESULTS.mkdir(exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", machine["cpu"].lower()).strip("-")
    write_text(RESULTS / f"folding-{name}.json", json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def text(length: int) -> str:
    """Almanac pages of `length` characters in all."""
    pages: list[str] = []
    while sum(map(len, pages)) < length:
        seed = SEED + len(pages)
        sample = load_task("almanac")(seed, PAGE_WORDS, TaskOptions(), str.split)[0]  # type: ignore[arg-type]
        pages.append(sample.document.read() + "\n")
    return "".join(pages)[:length]


def fold(folder: Path, document: str, model: str) -> dict[str, Any]:
    """Fold a text in a separate process: the report of the command, its seconds and its peak memory."""
    source, memory = folder / "document.txt", folder / "document.fold"
    source.write_text(document, encoding="utf-8")
    memory.unlink(missing_ok=True)
    reported, costs = measured_command("fold", str(source), "-o", str(memory), "--model", model)
    keys = ("tokens", "slots", "blocks", "dtype", "hidden", "ratio", "bytes", "bytes_per_token", "effective_ratio")
    return {key: reported[key] for key in keys} | costs | {"fold_seconds": reported["seconds"]["fold"]}


if __name__ == "__main__":
    main()
