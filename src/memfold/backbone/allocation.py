"""Returns freed memory to the operating system, so that peak memory does not grow with the length of a fold.

glibc keeps the memory that a forward pass frees.  Small allocations that outlive the pass fragment it, so the next pass
finds no free range that is large enough and requests more memory.  Other C libraries are not supported.  A GPU needs
none of this, because a pass leaves little behind in host memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


@cache
def _trim() -> Callable[[int], int] | None:
    """Return glibc's `malloc_trim`, which returns free heap pages to the system, or None if it does not exist."""
    try:
        malloc_trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or no handle for the process itself
        return None
    return malloc_trim


def give_back() -> None:
    """Return freed memory to the operating system; does nothing without glibc."""
    trim = _trim()
    if trim is not None:
        trim(0)
