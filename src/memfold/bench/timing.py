"""How long things take and how much memory they take at their peak.

The peak of memory is measured first, so that nothing is timed cold.  Machines are shared and their speed drifts, so
actions that are compared are run in turn, round after round.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import torch

from memfold.backbone.allocation import give_back
from memfold.backbone.model import Backbone

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
SHORT, LONG_RUNS = 65536, 3  # longer texts (in tokens) are timed in at most so many runs
Action = Callable[[], object]
Report = Callable[[str], None]  # receives a line for each length as soon as it is measured


def rounds(actions: Mapping[str, Action], backbone: Backbone, warmups: int, runs: int) -> dict[str, list[float]]:
    """Seconds of each action in each run; the runs of different actions alternate."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    gc.collect()
    for number in range(warmups + runs):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            _finish(backbone)
            if number >= warmups:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def count_of(length: int, warmups: int, runs: int) -> tuple[int, int]:
    """Warm-ups and runs at a length: texts that take minutes each get few runs and no warm-up."""
    return (warmups, runs) if length <= SHORT else (0, min(runs, LONG_RUNS))


def ratio(slow: list[float], fast: list[float]) -> float:
    """The median over rounds of how many times longer the first took than the second."""
    return median(first / second for first, second in zip(slow, fast, strict=True))


class PeakMemory:
    """Bytes above what is in use when it is made, with the weights loaded: of the device, or of this process.

    `of` gives None where neither can be measured (a CPU outside Linux).
    """

    def __init__(self, backbone: Backbone) -> None:
        self._cuda = backbone.device if backbone.device.type == "cuda" else None
        gc.collect()
        give_back()
        self._base = self._now("VmRSS")

    def of(self, action: Action) -> int | None:
        """The peak while an action runs, without what actions before it have freed; 0 where it fits into that."""
        give_back()
        if self._cuda is not None:
            torch.cuda.reset_peak_memory_stats(self._cuda)
        elif self._base is None:
            return None
        else:
            _CLEAR.write_text("5")  # the peak begins anew
        action()
        peak = self._now("VmHWM")
        return None if peak is None or self._base is None else max(0, peak - self._base)

    def _now(self, name: str) -> int | None:
        if self._cuda is not None:
            peak = name == "VmHWM"
            return torch.cuda.max_memory_allocated(self._cuda) if peak else torch.cuda.memory_allocated(self._cuda)
        if not _CLEAR.exists():
            return None
        lines = (line.split() for line in _STATUS.read_text().splitlines())
        return next(1024 * int(fields[1]) for fields in lines if fields[0] == f"{name}:")


def _finish(backbone: Backbone) -> None:
    if backbone.device.type == "cuda":
        torch.cuda.synchronize(backbone.device)
