"""Freed memory given back to the system, so that a long fold needs no more of it than a short one.

The C library keeps what a forward pass has freed, and the few small things that outlive a pass come to lie in between:
the next pass then finds no hole that is large enough and asks for more.  Left out: C libraries other than glibc, and
processes on a GPU, where what a pass leaves behind is small.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


@cache
def _trim() -> Callable[[int], int] | None:
    """glibc's `malloc_trim`, which returns every free page of the heap; None where there is none."""
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or a platform without a handle on its own
        return None
    return found


def give_back() -> None:
    """Return freed memory to the system; does nothing where the C library cannot."""
    trim = _trim()
    if trim is not None:
        trim(0)
