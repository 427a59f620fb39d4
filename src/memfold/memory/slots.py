"""Converts slots to bytes and back, in the dtypes of a memory file.

`float32` and `bfloat16` are lossless for slots of the same dtype and round other slots.  `int8` makes smaller files: it
stores a float32 scale s = max|x| / 127 (at least 1.2e-38) for each slot and integers q in -127..127 with x ~ q * s.
The error |x - q * s| is at most 0.5001 * s, which is under 0.4 % of the largest value of the slot.  Only the file is
smaller: int8 slots become float32 when it is opened.
"""

from __future__ import annotations

import torch
from torch import Tensor

from memfold.core.errors import DataError

TORCH_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


def to_bytes(slots: Tensor, dtype: str) -> tuple[bytes, bytes]:
    """The bytes of slots [n, d], and of their scales [n] (empty unless `dtype` is int8).

    Raises:
        DataError: if `dtype` is int8 and a value is not finite.
    """
    slots = slots.detach().cpu()
    if dtype != "int8":
        return _raw(slots.to(TORCH_TYPES[dtype])), b""
    quantised, scales = quantise(slots)
    return _raw(quantised), _raw(scales)


def quantise(slots: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise slots [n, d] to int8 [n, d] with float32 scales [n].

    Raises:
        DataError: if a value is not finite.
    """
    values = slots.double()
    if not torch.isfinite(values).all():
        raise DataError("slots contain values that are not finite; int8 cannot store them, use float32 or bfloat16")
    limits = torch.finfo(torch.float32)
    largest = values.abs().amax(1) if values.numel() else values.new_zeros(len(values))
    # the upper limit keeps 127 * s finite in float32
    scales = (largest / 127).clamp(limits.tiny, limits.max / 127 * (1 - limits.eps)).float()
    return (values / scales.double()[:, None]).round().clamp(-127, 127).to(torch.int8), scales


def dequantise(quantised: Tensor, scales: Tensor) -> Tensor:
    """Convert int8 [n, d] with scales [n] back to slots [n, d] in float32."""
    return quantised.float() * scales[:, None]


def _raw(tensor: Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
