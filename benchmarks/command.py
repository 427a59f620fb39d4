"""Runs a command of memfold in a separate process and measures it: seconds and peak memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

RUN = "import sys; from memfold.cli.main import run; run(sys.argv[1:])"
NO_ANSWER = 1  # exit code of `memfold ask`


def measured_command(*words: str, accepted: Sequence[int] = (0,)) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what `memfold WORDS --json` prints, and its `seconds` and `peak_bytes`.

    Another exit code than those `accepted` ends the benchmark.
    """
    started = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", RUN, *words, "--json"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None, "a pipe was requested"
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in accepted:
        raise SystemExit(f"memfold {' '.join(words)} failed with exit code {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes per unit of ru_maxrss
    costs = {"seconds": round(time.perf_counter() - started, 2), "peak_bytes": usage.ru_maxrss * unit}
    return json.loads(printed), costs
