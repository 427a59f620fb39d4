"""Estimates what a long fold will take: the beginning of its longest document is folded, and the result scaled up.

A short piece is folded first.  Only where that is quick a longer one follows, which is closer to the speed of a long
fold: a model that is slow on this machine is not kept busy by an estimate.  Left out: what an interrupted fold has done
already.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memfold.core.document import Document
from memfold.folding import fold_file
from memfold.memory import describe
from memfold.session import Session

LARGE = 100_000  # characters from which on a fold is estimated: about 25,000 tokens
SHORT_PROBE = 2048  # characters
QUICK = 1.0  # seconds
_UNITS = ((1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB"))


@dataclass(frozen=True)
class Estimate:
    """What a whole fold takes; `probe` is how many tokens were folded for the estimate."""

    tokens: int
    slots: int
    bytes: int
    seconds: float
    probe: int

    def line(self, added: bool = False) -> str:
        """As a line of text; `added` to an existing file."""
        file = "growing the memory file by" if added else "a memory file of"
        slots = f" in {_rounded(self.slots)} slots" if self.slots else ""
        return (
            f"about {_rounded(self.tokens)} tokens{slots}, {file} about {_size(self.bytes)}, "
            f"about {_duration(self.seconds)} (from a probe of {self.probe:,} tokens)"
        )


def estimate(
    documents: Sequence[Document], session: Session, keep_text: bool = True, dtype: str = "bfloat16"
) -> Estimate | None:
    """What folding these documents will take; None where they are so short that it hardly matters."""
    characters = sum(document.characters for document in documents)
    if characters < LARGE:
        return None
    piece = next(max(documents, key=lambda document: document.characters).pieces())
    probe, seconds = piece[:SHORT_PROBE], 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.fold"
        for length in (SHORT_PROBE, len(piece)):
            if seconds > QUICK:
                break
            probe = piece[:length]
            started = time.perf_counter()
            fold_file([Document("probe", text=probe)], path, session, keep_text=keep_text, dtype=dtype)
            seconds = time.perf_counter() - started
        probed = describe(path)
    scale = characters / len(probe)
    growth = scale * (probed["bytes"]["total"] - probed["bytes"]["header"])
    return Estimate(
        tokens=round(scale * probed["tokens"]),
        slots=round(scale * probed["slots"]),
        bytes=round(growth) + probed["bytes"]["header"],
        seconds=scale * seconds,
        probe=probed["tokens"],
    )


def _rounded(count: int) -> str:
    """Two digits of a number, with commas.

    >>> _rounded(123456), _rounded(7)
    ('120,000', '7')
    """
    unit = 10 ** max(0, len(str(count)) - 2)
    return f"{round(count / unit) * unit:,}"


def _size(count: int) -> str:
    return next((f"{count / unit:.1f} {name}" for unit, name in _UNITS if count >= unit), f"{count} bytes")


def _duration(seconds: float) -> str:
    """In a readable unit.

    >>> _duration(0.4), _duration(90), _duration(7300)
    ('1 s', '90 s', '2.0 h')
    """
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
