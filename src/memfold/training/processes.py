"""The processes of one training run: each takes batches of its own, gradients are summed, the first process writes.

    torchrun --nproc-per-node 2 -m memfold train RECIPE

All processes hold the same weights and take the same steps, so n processes with m micro-batches are one process with
n x m.  What the processes say to each other goes through `accelerate`.  Left out: weights spread over processes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

Found = TypeVar("Found")


class Processes:
    """This process among the others; alone where nothing else was launched."""

    def __init__(self) -> None:
        launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
        self._accelerator = Accelerator(cpu=launched and not torch.cuda.is_available())
        self.device = str(self._accelerator.device)
        self.count: int = self._accelerator.num_processes
        self.number: int = self._accelerator.process_index

    @property
    def first(self) -> bool:
        """Whether this process writes and reports."""
        return self.number == 0

    def autocast(self, precision: str) -> AbstractContextManager[None]:
        """Matrix products in `precision`."""
        kind = torch.device(self.device).type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bfloat16")

    def gather(self, found: Found) -> list[Found]:
        """What every process found, in their order."""
        return gather_object([found]) if self.count > 1 else [found]

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give every process the sum; a parameter that no process has a gradient for keeps none."""
        if self.count == 1:
            return
        reached = [float(parameter.grad is not None) for parameter in parameters]
        flat = torch.cat([*map(_flat, parameters), torch.tensor(reached, device=self.device)])
        total: Tensor = self._accelerator.reduce(flat, "sum")
        counts = total[-len(parameters) :].tolist()
        start = 0
        for parameter, count in zip(parameters, counts, strict=True):
            end = start + parameter.numel()
            parameter.grad = total[start:end].view_as(parameter).clone() if count else None
            start = end

    def wait(self) -> None:
        """Until all processes are here."""
        self._accelerator.wait_for_everyone()

    def part(self) -> None:
        """Wait a last time and give the connections up; a process that ends with them open may be aborted."""
        self.wait()
        if self.count > 1:
            self._accelerator.end_training()


def _flat(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter).flatten() if parameter.grad is None else parameter.grad.flatten()
