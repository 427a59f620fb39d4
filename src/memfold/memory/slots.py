"""Slots to bytes and back, in the forms that a memory file knows.

`float32` and `bfloat16` keep the bits of slots that already have that dtype and round others to it.  `int8` is for
smaller files: one float32 scale for each slot, s = max|x| / 127 (at least 1.2e-38), and whole numbers q in -127..127
with x ~ q * s, so |x - q * s| <= 0.5001 * s, under 0.4 % of the slot's largest value.
Left out: memory saved while int8 slots are in use; they become float32 when the file is opened.
"""

from __future__ import annotations

import torch
from torch import Tensor

from memfold.core.errors import DataError

TORCH_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


def to_bytes(slots: Tensor, dtype: str) -> tuple[bytes, bytes]:
    """The bytes of slots [n, d], and of their scales [n] (empty unless `dtype` is int8).

    Raises:
        DataError: when int8 is asked for values that are not finite.
    """
    slots = slots.detach().cpu()
    if dtype != "int8":
        return _raw(slots.to(TORCH_TYPES[dtype])), b""
    quantised, scales = quantise(slots)
    return _raw(quantised), _raw(scales)


def quantise(slots: Tensor) -> tuple[Tensor, Tensor]:
    """Slots [n, d] as int8 [n, d] and float32 scales [n].

    Raises:
        DataError: for values that are not finite.
    """
    values = slots.double()
    if not torch.isfinite(values).all():
        raise DataError("slots hold values that are not finite; int8 cannot store them, use float32 or bfloat16")
    limits = torch.finfo(torch.float32)
    largest = values.abs().amax(1) if values.numel() else values.new_zeros(len(values))
    # the upper limit keeps 127 * s finite in float32
    scales = (largest / 127).clamp(limits.tiny, limits.max / 127 * (1 - limits.eps)).float()
    return (values / scales.double()[:, None]).round().clamp(-127, 127).to(torch.int8), scales


def dequantise(quantised: Tensor, scales: Tensor) -> Tensor:
    """Slots [n, d] in float32 from int8 [n, d] and scales [n]."""
    return quantised.float() * scales[:, None]


def _raw(tensor: Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
