"""Folding speed beside what bounds it: the model's own forward pass over the same windows, without all the rest.

Also how time grows with length, and what folding several short documents at once gains.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

from memfold.api import fold_documents
from memfold.bench.text import filler
from memfold.bench.timing import PeakMemory, Report, count_of, ratio, rounds
from memfold.core.document import Document
from memfold.folding import fold_file
from memfold.session import Session

TOGETHER, SHORT = 8, (16, 64, 256)


def bench_fold(session: Session, lengths: Sequence[int], warmups: int, runs: int, report: Report) -> dict[str, Any]:
    """One entry for each length; `ratio` is the least share of the forward pass's speed."""
    peak = PeakMemory(session.model.weights())
    entries = []
    with tempfile.TemporaryDirectory() as folder:
        for length in lengths:
            entries.append(_length(session, length, count_of(length, warmups, runs), peak, Path(folder)))
            report(_line(entries[-1]))
    return {
        "ratio": min(entry["share_of_forward"] for entry in entries),
        "slope": _slope(entries),
        "together": _together(session, warmups, runs),
        "lengths": entries,
    }


def _length(session: Session, length: int, times: tuple[int, int], peak: PeakMemory, folder: Path) -> dict[str, Any]:
    backbone = session.model.weights()
    text = filler(backbone, length)
    document, tokens = Document("filler", text=text), backbone.encode(text)

    def fold() -> None:
        fold_file([document], folder / "bench.fold", session, force=True)

    def forward() -> None:
        session.system.encode_only(tokens, backbone)

    memory = peak.of(fold)
    seconds = rounds({"fold": fold, "forward": forward}, backbone, *times)
    return {
        "tokens": len(tokens),
        "share_of_forward": round(ratio(seconds["forward"], seconds["fold"]), 3),
        "tokens_per_second": round(len(tokens) / median(seconds["fold"])),
        "peak_bytes_above_weights": memory,
        "seconds": {name: [round(value, 5) for value in values] for name, values in seconds.items()},
    }


def _together(session: Session, warmups: int, runs: int) -> list[dict[str, Any]]:
    """Short documents folded at once and one by one, for each size; those that fill a processor gain little."""
    return [_at_once(session, size, warmups, runs) for size in SHORT]


def _at_once(session: Session, size: int, warmups: int, runs: int) -> dict[str, Any]:
    backbone = session.model.weights()
    documents = [Document(f"filler-{seed}", text=filler(backbone, size, seed)) for seed in range(TOGETHER)]

    def apart() -> None:
        for document in documents:
            fold_documents([document], session)

    actions = {"apart": apart, "together": lambda: fold_documents(documents, session)}
    seconds = rounds(actions, session.model.weights(), warmups, runs)
    gain = round(ratio(seconds["apart"], seconds["together"]), 3)
    return {"documents": TOGETHER, "tokens_each": size, "ratio": gain, "seconds": seconds}


def _slope(entries: Sequence[dict[str, Any]]) -> float | None:
    """Of the logarithm of the time over that of the length: least squares over all lengths, None for a single one."""
    if len({entry["tokens"] for entry in entries}) < 2:
        return None
    lengths = [math.log(entry["tokens"]) for entry in entries]
    times = [math.log(median(entry["seconds"]["fold"])) for entry in entries]
    return round(linear_regression(lengths, times).slope, 3)


def _line(entry: dict[str, Any]) -> str:
    return (
        f"{entry['tokens']:,} tokens: {entry['tokens_per_second']:,} tokens/s, "
        f"{entry['share_of_forward']:.0%} of the forward pass's speed"
    )
