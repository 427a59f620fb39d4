"""Sets up the process of a command, before NumPy and PyTorch are imported, and ends it.

What the user set in the environment stays.  Left out: the Python API, which changes neither the environment nor the
garbage collector of a program.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from pathlib import Path
from typing import NoReturn

# Threads that wait for work sleep.  By default they spin, which takes the time of other processes; those of OpenBLAS,
# which NumPy starts for each processor when it is imported, do so for 2 ** 26 cycles each.
WAITING = {"OMP_WAIT_POLICY": "passive", "OPENBLAS_THREAD_TIMEOUT": "4"}
THREADS = "OMP_NUM_THREADS"
QUOTA_V2 = Path("/sys/fs/cgroup/cpu.max")  # quota and period in microseconds, or max
QUOTA_V1 = (Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us"))
IMPORTED = 1_000_000  # objects that exist before garbage is collected first; about as many as imports make, which stay


def set_up_process() -> None:
    """Set the environment of the threads where the user has not, and collect no garbage while modules are imported."""
    for name, value in WAITING.items():
        os.environ.setdefault(name, value)
    threads = allowed_threads()
    if threads is not None:
        os.environ.setdefault(THREADS, str(threads))
    _, *others = usual = gc.get_threshold()

    def collect_as_usual(phase: str, _: object) -> None:
        """After the first collection, forget the objects that survived it, and collect as often as usual."""
        if phase == "stop":
            gc.callbacks.remove(collect_as_usual)
            gc.freeze()
            gc.set_threshold(*usual)

    gc.set_threshold(IMPORTED, *others)
    gc.callbacks.append(collect_as_usual)


def end_process(code: int) -> NoReturn:
    """Exit with this code, and collect no garbage before.

    One of several processes of a training (`torchrun`) does not finalise its interpreter: a thread of PyTorch that
    asks for it at that moment would abort a process whose work is done ("terminate called without an active
    exception").
    """
    gc.freeze()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def allowed_threads() -> int | None:
    """Return how many threads a container may run at a time; None if it has no limit below the number of processors.

    PyTorch starts a thread for each processor of the machine.  With more threads than the quota allows, all of them are
    stopped for a part of each period.
    """
    quota = _quota()
    return max(1, int(quota)) if quota is not None and quota < processors() else None


def processors() -> int:
    """Return the number of processors that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _quota() -> float | None:
    """Return the processors that the control group of this process grants; None if it sets no limit."""
    try:
        quota, period = QUOTA_V2.read_text().split() if QUOTA_V2.exists() else (path.read_text() for path in QUOTA_V1)
        granted = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no control groups, or no limit ("max")
        return None
    return granted if granted > 0 else None  # version 1 has -1 where there is no limit
