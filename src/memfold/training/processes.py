"""The processes of one training run: each takes batches of its own, gradients are summed, the first process writes.

    torchrun --nproc-per-node 2 -m memfold train RECIPE

All processes hold the same weights and take the same steps, so n processes with m micro-batches are one process with
n x m.  What the processes say to each other goes through `accelerate`.  Weights that are spread over processes sum
their gradients themselves (`memfold.training.sharding`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

Found = TypeVar("Found")
PATIENCE = timedelta(hours=6)  # with one that still samples, waits for a judge, or writes a checkpoint
BUCKET = 1 << 26  # gradients that are sent together, unless one parameter alone has more


class Processes:
    """This process among the others; alone where nothing else was launched."""

    def __init__(self) -> None:
        launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
        self._accelerator = Accelerator(
            cpu=launched and not torch.cuda.is_available(), kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)]
        )
        self.device = str(self._accelerator.device)
        self.count: int = self._accelerator.num_processes
        self.number: int = self._accelerator.process_index

    @property
    def first(self) -> bool:
        """Whether this process writes and reports."""
        return self.number == 0

    def autocast(self, precision: str, copies: bool = True) -> AbstractContextManager[None]:
        """Matrix products in `precision`; without `copies` weights are converted anew for each of them."""
        kind = torch.device(self.device).type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=copies)

    def gather(self, found: Found) -> list[Found]:
        """What every process found, in their order."""
        return gather_object([found]) if self.count > 1 else [found]

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give every process the sum; a parameter that no process has a gradient for keeps none."""
        whole = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
        if self.count == 1 or not whole:
            return
        reached = torch.tensor([float(parameter.grad is not None) for parameter in whole], device=self.device)
        counts = self._accelerator.reduce(reached, "sum").tolist()
        for bucket in _buckets(whole):
            flat = torch.cat([_flat(whole[index]) for index in bucket])
            parts = self._accelerator.reduce(flat, "sum").split([whole[index].numel() for index in bucket])
            for index, part in zip(bucket, parts, strict=True):
                whole[index].grad = part.view_as(whole[index]).clone() if counts[index] else None

    def wait(self) -> None:
        """Until all processes are here."""
        self._accelerator.wait_for_everyone()

    def part(self) -> None:
        """Wait a last time and give the connections up; a process that ends with them open may be aborted."""
        self.wait()
        if self.count > 1:
            self._accelerator.end_training()


def _buckets(parameters: Sequence[nn.Parameter]) -> list[list[int]]:
    """Numbers of parameters that are sent together: large messages, and little memory for them."""
    buckets: list[list[int]] = []
    size = BUCKET
    for index, parameter in enumerate(parameters):
        if size + parameter.numel() > BUCKET:
            buckets.append([])
            size = 0
        buckets[-1].append(index)
        size += parameter.numel()
    return buckets


def _flat(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter).flatten() if parameter.grad is None else parameter.grad.flatten()
