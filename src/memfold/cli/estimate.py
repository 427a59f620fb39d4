"""Estimates what a long fold will take: the beginning of its longest document is folded, and the result scaled up.

A short piece is folded first.  If that is quick, a longer one follows, because its speed is closer to that of a long
fold; a slow model folds the short piece only.  The estimate ignores what an interrupted fold has already done.
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

LARGE = 100_000  # characters, about 25,000 tokens; shorter folds are not estimated
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
        """Return the estimate as a line of text; `added` says that the documents are added to an existing file."""
        size = f"about {_size(self.bytes)}"
        file = f"{size} added to the memory file" if added else f"a memory file of {size}"
        slots = f" in {_rounded(self.slots)} slots" if self.slots else ""
        return (
            f"about {_rounded(self.tokens)} tokens{slots}, {file}, "
            f"about {_duration(self.seconds)} (from a probe of {self.probe:,} tokens)"
        )


def estimate(
    documents: Sequence[Document], session: Session, keep_text: bool = True, dtype: str = "bfloat16"
) -> Estimate | None:
    """Return what folding these documents will take; None if they are short."""
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
            document = Document("probe", text=probe)
            fold_file([document], path, session, keep_text=keep_text, dtype=dtype, force=True)
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
    """Return a number rounded to two digits, with commas.

    >>> _rounded(123456), _rounded(7)
    ('120,000', '7')
    """
    unit = 10 ** max(0, len(str(count)) - 2)
    return f"{round(count / unit) * unit:,}"


def _size(count: int) -> str:
    return next((f"{count / unit:.1f} {name}" for unit, name in _UNITS if count >= unit), f"{count} bytes")


def _duration(seconds: float) -> str:
    """Return a duration in a readable unit.

    >>> _duration(0.4), _duration(90), _duration(7300)
    ('1 s', '90 s', '2.0 h')
    """
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
