"""Writes the result of a benchmark of one model: command, commit, machine and weights beside what was measured."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from memfold.backbone.origin import commit, hardware
from memfold.core.model import Model
from memfold.core.outputs import write_text

RESULTS = Path(__file__).parent / "results"


def write_result(script: str, model: Model, device: str, measured: Mapping[str, Any], out: Path | None = None) -> None:
    """Print a result and write it to `out`, by default results/SCRIPT-CPU.json; `script` is a name without .py."""
    machine = hardware(torch.device(device))
    result = {
        "command": f"python benchmarks/{script}.py {' '.join(sys.argv[1:])}".strip(),
        "commit": commit(),
        "hardware": machine,
        "model": {"name": model.name, "fingerprint": model.identity},
        **measured,
    }
    cpu = re.sub(r"[^a-z0-9]+", "-", machine["cpu"].lower()).strip("-")
    path = out or RESULTS / f"{script.replace('_', '-')}-{cpu}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
