"""The origin of measurements: the commit, the machine and the versions, which every report states."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import memfold

_CPU_INFO = Path("/proc/cpuinfo")


def commit() -> str | None:
    """Return the commit of memfold's own checkout, with `-dirty` for uncommitted changes; None outside a checkout."""
    package = Path(memfold.__file__).resolve().parent
    top = _git(package, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() / "src" / "memfold" != package:
        return None
    changed = _git(package, "status", "--porcelain", "--untracked-files=no")
    return f"{_git(package, 'rev-parse', 'HEAD')}{'-dirty' if changed else ''}"


def hardware(device: torch.device) -> dict[str, Any]:
    """Return a description of the machine, the device of the model, and the versions of Python and libraries."""
    described: dict[str, Any] = {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
    }
    if device.type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
    return described


def _cpu() -> str:
    if _CPU_INFO.exists():
        for line in _CPU_INFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(folder: Path, *arguments: str) -> str | None:
    # without locks: a process that is killed would leave one behind
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        completed = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return completed.stdout.strip()
