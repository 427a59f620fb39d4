"""Converts slots to bytes and back, in the dtypes of a memory file.

`float32` and `bfloat16` are lossless for slots of the same dtype and round other slots.  `int8` makes smaller files: it
stores a float32 scale s = max|x| / 127 (at least 1.2e-38) for each slot, or for each of its equal parts, such as the
keys of one head, and integers q in -127..127 with x ~ q * s.  The error |x - q * s| is at most 0.5001 * s, which is
under 0.4 % of the largest value of the part.  Only the file is smaller: int8 slots become float32 when they are read.

The slots of each block have a checksum, so that a block is checked when it is first read, and one that is damaged
leaves the others usable.  CRC-32 finds accidents: every change within 32 bits, and all but one in four billion of the
others.  What is altered on purpose is found by the SHA-256 of all slots (`memfold.memory.reader.verify`).
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from memfold.core.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def torch_type(dtype: str) -> torch.dtype:
    """Return the torch dtype of a dtype of memory files, such as "int8"."""
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}[dtype]


def to_bytes(slots: Tensor, dtype: str, parts: int = 1) -> tuple[bytes, bytes]:
    """Return the bytes of slots [n, d], and of their scales [n, parts] (empty unless `dtype` is int8).

    Raises:
        DataError: if a value is not finite in `dtype`.
    """
    slots = slots.detach().cpu()
    if dtype != "int8":
        stored = slots.to(torch_type(dtype))
        check_finite(stored)
        return _raw(stored), b""
    quantised, scales = quantise(slots, parts)
    return _raw(quantised), _raw(scales)


def checksum(slots: bytes | memoryview, scales: bytes | memoryview) -> int:
    """Return the CRC-32 of the bytes of the slots of a block, and then of its scales."""
    return zlib.crc32(scales, zlib.crc32(slots))


def quantise(slots: Tensor, parts: int = 1) -> tuple[Tensor, Tensor]:
    """Quantise slots [n, d] to int8 [n, d] with float32 scales [n, parts], one for each d / parts values.

    Raises:
        DataError: if a value is not finite.
    """
    import torch

    check_finite(slots)
    values = slots.double().reshape(len(slots), parts, slots.shape[1] // parts)
    limits = torch.finfo(torch.float32)
    largest = values.abs().amax(2) if values.numel() else values.new_zeros(len(values), parts)
    # the upper limit keeps 127 * s finite in float32
    scales = (largest / 127).clamp(limits.tiny, limits.max / 127 * (1 - limits.eps)).float()
    return (values / scales.double()[..., None]).round().clamp(-127, 127).to(torch.int8).flatten(1), scales


def check_finite(slots: Tensor) -> None:
    """Refuse slots that hold NaN or infinity, which no answer survives.

    Raises:
        DataError: with the usual cause.
    """
    if not is_finite(slots):
        raise DataError(
            "slots contain values that are not finite (NaN or infinity), as a model in float16 computes when it "
            "overflows; use it in bfloat16 or float32"
        )


def is_finite(values: Tensor) -> bool:
    """Return whether all values are finite, without a copy of them; NaN is both the smallest and the largest value."""
    import torch

    if not values.numel():
        return True
    limits = torch.stack(torch.aminmax(values.detach()))
    return bool(torch.isfinite(limits).all())


def dequantise(quantised: Tensor, scales: Tensor) -> Tensor:
    """Convert int8 [n, d] with scales [n] or [n, parts] back to slots [n, d] in float32."""
    parts = 1 if scales.ndim == 1 else scales.shape[1]
    values: Tensor = quantised.float().reshape(len(quantised), parts, quantised.shape[1] // parts)
    values = values * scales.reshape(len(quantised), parts, 1)
    return values.flatten(1)


def _raw(tensor: Tensor) -> bytes:
    import torch

    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
