"""Checks the names of a device and of a data type before a model is loaded, and which devices compute in bfloat16."""

from __future__ import annotations

import re

from memfold.core.errors import ConfigError, unknown

ALLOWED = "cpu, cuda, cuda:N, mps"
DTYPE_NAMES = ("float32", "bfloat16", "float16")  # names of the data types of weights
_NAME = re.compile(r"(?:cpu|mps)(?::0)?|cuda(?::(\d+))?", re.ASCII)


def check_dtype(name: str) -> None:
    """Raise a `ConfigError` for an unknown data type of weights."""
    if name not in DTYPE_NAMES:
        raise unknown("dtype", name, DTYPE_NAMES)


def check_device(name: str) -> None:
    """Raise a `ConfigError` for a device that does not exist, or that this machine does not have."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ConfigError(f"device {name!r} is not possible; allowed: {ALLOWED}")
    if name.startswith("cpu"):
        return
    import torch

    if name.startswith("mps") and not torch.backends.mps.is_available():
        raise ConfigError("device 'mps' is not available on this machine; use cpu, or cuda with an NVIDIA GPU")
    if not name.startswith("cuda"):
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise ConfigError(f"device {name!r} is not available: PyTorch finds no GPU on this machine; use cpu")
    if int(match[1] or 0) >= count:
        raise ConfigError(f"device {name!r} is not available; allowed: cpu, cuda:0 to cuda:{count - 1}")


def computes_bfloat16(device: str) -> bool:
    """Return whether a device has instructions for products of bfloat16 matrices.

    Processors without AVX-512 have none; PyTorch then multiplies bfloat16 value by value, 20 to 30 times as slowly as
    float32 (AMD EPYC with AVX2, torch 2.13).
    """
    import torch

    if not device.startswith("cpu") or not torch.backends.mkldnn.is_available():
        return True
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
