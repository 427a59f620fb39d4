"""Describes the devices that a recipe is meant for, for its plan and for dividing its work."""

from __future__ import annotations

import math
from dataclasses import dataclass

from memfold.core.config import require


@dataclass(frozen=True)
class Hardware:
    """Devices of one kind.

    In supervised training all of them work on the same mixture entry at a time.  With `sharded` the layers trained in
    full are sharded over the devices with their optimiser state (FSDP2).  `memory` is in GB (10^9 bytes), `teraflops`
    the dense bfloat16 peak, `bandwidth` the peak memory bandwidth in TB/s, `utilisation` the fraction of both peaks
    that the plan assumes (not measured).
    """

    devices: int = 1
    sharded: bool = False
    memory: float = 80.0
    teraflops: float = 989.0
    bandwidth: float = 3.35
    utilisation: float = 0.4

    def __post_init__(self) -> None:
        require(self.devices > 0, "devices", self.devices, "1 or more")
        require(0 < self.memory < math.inf, "memory", self.memory, "above 0 GB")
        require(0 < self.teraflops < math.inf, "teraflops", self.teraflops, "above 0")
        require(0 < self.bandwidth < math.inf, "bandwidth", self.bandwidth, "above 0 TB a second")
        require(0 < self.utilisation <= 1, "utilisation", self.utilisation, "above 0, at most 1")
