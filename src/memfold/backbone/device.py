"""Checks the name of a device before a model is loaded."""

from __future__ import annotations

import re

import torch

from memfold.core.errors import ConfigError

ALLOWED = "cpu, cuda, cuda:N, mps"
_NAME = re.compile(r"(?:cpu|mps)(?::0)?|cuda(?::(\d+))?", re.ASCII)


def check_device(name: str) -> None:
    """Raise a `ConfigError` for a device that does not exist, or that this machine does not have."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ConfigError(f"device {name!r} is not possible; allowed: {ALLOWED}")
    if name.startswith("mps") and not torch.backends.mps.is_available():
        raise ConfigError("device 'mps' is not available on this machine; use cpu, or cuda with an NVIDIA GPU")
    if not name.startswith("cuda"):
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise ConfigError(f"device {name!r} is not available: PyTorch finds no GPU on this machine; use cpu")
    if int(match[1] or 0) >= count:
        raise ConfigError(f"device {name!r} is not available; allowed: cpu, cuda:0 to cuda:{count - 1}")
