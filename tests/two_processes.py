"""Two processes on this machine, joined by gloo, each with one thread and no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def launched(arguments: list[str], folder: Path) -> None:
    """Run a script or a module with these arguments in both, and want both to end well."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
