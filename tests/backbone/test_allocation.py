"""Freed memory goes back to the system."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from memfold.backbone import allocation

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the resident size from /proc")


def _resident_pages() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.skipif(allocation._trim() is None, reason="the C library has no malloc_trim")
def test_holes_below_something_that_stays_are_returned() -> None:
    pieces = [bytearray((1 << 16) + number) for number in range(600)]  # 39 MB in stretches that come from the heap
    kept = pieces[1::2]
    before = _resident_pages()
    del pieces  # every other piece is freed; the ones in between hold the heap at its size
    allocation.give_back()
    assert before - _resident_pages() > 300 * (1 << 16) // 4096 * 0.8
    assert len(kept) == 300


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "_trim", lambda: None)
    allocation.give_back()
