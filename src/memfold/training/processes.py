"""Coordinates the processes of one training run: each computes its own batches, and gradients are summed.

    torchrun --nproc-per-node 2 -m memfold train RECIPE

All processes hold the same weights and take the same steps, so n processes with m micro-batches are equivalent to one
process with n x m.  They communicate through `accelerate`.  Sharded weights reduce their gradients by themselves
(`memfold.training.sharding`).
"""

from __future__ import annotations

import atexit
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

Value = TypeVar("Value")
PATIENCE = timedelta(hours=6)  # for a process that is still sampling, waiting for a judge, or writing a checkpoint
BUCKET = 1 << 26  # gradient elements that are reduced together; a larger parameter is a bucket of its own


def _leave() -> None:
    """Leave the group of processes before the interpreter ends: threads of gloo that still run would abort it."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class Processes:
    """This process and its peers; a single one unless several were launched."""

    def __init__(self) -> None:
        launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
        self._accelerator = Accelerator(
            cpu=launched and not torch.cuda.is_available(), kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)]
        )
        if launched:
            atexit.register(_leave)
        self.device = str(self._accelerator.device)
        self.count: int = self._accelerator.num_processes
        self.number: int = self._accelerator.process_index

    @property
    def first(self) -> bool:
        """Whether this process writes and reports."""
        return self.number == 0

    def autocast(self, precision: str, copies: bool = True) -> AbstractContextManager[None]:
        """Autocast matrix products to `precision`; `copies` says whether converted weights are cached."""
        kind = torch.device(self.device).type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=copies)

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all processes, in order of their numbers."""
        return gather_object([value]) if self.count > 1 else [value]

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """All-reduce gradients; a parameter without a gradient in every process keeps none."""
        replicated = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
        if self.count == 1 or not replicated:
            return
        reached = torch.tensor([float(parameter.grad is not None) for parameter in replicated], device=self.device)
        counts = self._accelerator.reduce(reached, "sum").tolist()
        for bucket in _buckets(replicated):
            flat = torch.cat([_flat(replicated[index]) for index in bucket])
            parts = self._accelerator.reduce(flat, "sum").split([replicated[index].numel() for index in bucket])
            for index, part in zip(bucket, parts, strict=True):
                replicated[index].grad = part.view_as(replicated[index]).clone() if counts[index] else None

    def wait(self) -> None:
        """Block until all processes get here."""
        self._accelerator.wait_for_everyone()

    def close(self) -> None:
        """Wait a last time and close the connections; a process that exits with them open may be aborted."""
        self.wait()
        if self.count > 1:
            self._accelerator.end_training()


def _buckets(parameters: Sequence[nn.Parameter]) -> list[list[int]]:
    """Return indices of parameters that are reduced together: messages are large, and need little extra memory."""
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
