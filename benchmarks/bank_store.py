"""Measure what a KV memory bank costs that stores its blocks, and one that stores its text and makes them when read.

    python benchmarks/bank_store.py [--model tiny] [--tokens 28672] [--candidates 4] [--threads 1]

One document of the suite `ruler-hqa` is folded into a file of each kind.  Two questions about it are then asked, each
kind opened anew for each way of reading: the gate sees every block; it sees the best few by BM25 (`candidates`); or it
sees every block while nothing that was made is kept for the next question (`gigabytes=0`).  `same_answers` says whether
the answers are those of stored blocks, read in the same way.

For the stored blocks, the seconds that checksums take are part of those of folding; opening the file is compared with
reading and checking all of it.  Seconds are CPU seconds of this process, which a busy machine disturbs least.  The
result is one JSON object, printed and written to benchmarks/results/bank-store-<cpu>.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from result_file import write_result

from memfold.core.document import Document
from memfold.core.errors import MemfoldError
from memfold.core.job import Job
from memfold.core.scheduler import answer
from memfold.core.types import Sample
from memfold.evaluation.suite import document_seed
from memfold.folding import fold_file
from memfold.memory import describe, open_memory, slots, verify, writer
from memfold.session import Session, make_system, open_session
from memfold.systems.kvbank.system import Kvbank
from memfold.tasks.almanac.spread import spread
from memfold.tasks.task import TaskOptions

STORES = ("blocks", "text")
QUESTIONS = 2
Made = TypeVar("Made")


def main() -> int:
    """Measure one document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--tokens", type=int, default=28672)
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        session = open_session(Kvbank.name, arguments.model)
        with tempfile.TemporaryDirectory() as folder:
            measured = measure(session, arguments.tokens, arguments.candidates, arguments.seed, Path(folder))
    except MemfoldError as error:
        print(error, file=sys.stderr)
        return 1
    write_result("bank_store", session.model, "cpu", measured, arguments.out)
    return 0


def measure(session: Session, tokens: int, candidates: int, seed: int, folder: Path) -> dict[str, Any]:
    """Return the figures of both kinds of file, and of each way of reading them."""
    options = TaskOptions(samples=QUESTIONS)
    samples = spread(document_seed("bank-store", seed, tokens), tokens, options, session.model.encode)
    warm_up(session, samples[0], folder)
    files = {store: fold(session, samples[0].document, store, folder / store) for store in STORES}
    ways: list[tuple[str, dict[str, Any]]] = [
        ("blocks", {}),
        ("text", {}),
        ("text", {"gigabytes": 0}),
        ("blocks", {"candidates": candidates}),
        ("text", {"candidates": candidates}),
    ]
    rows: list[dict[str, Any]] = []
    answers: dict[str, list[str]] = {}
    for store, settings in ways:
        row, replies = ask(session, store, settings, samples, folder / store)
        read = json.dumps({name: value for name, value in settings.items() if name != "gigabytes"})
        rows.append(row | {"same_answers": replies == answers.setdefault(read, replies)})
    return {"tokens": tokens, "files": files, "checks": checks(folder / STORES[0]), "reading": rows}


def fold(session: Session, document: Document, store: str, path: Path) -> dict[str, Any]:
    """Fold into a file, and return its figures."""
    spent = [0.0]
    plain = slots.checksum

    def timed(data: bytes, scales: bytes) -> int:
        value, seconds = timing(lambda: plain(data, scales))
        spent[0] += seconds
        return value

    vars(writer)["checksum"] = timed
    try:
        _, seconds = timing(lambda: fold_file([document], path, with_settings(session, {"store": store})))
    finally:
        vars(writer)["checksum"] = plain
    described = describe(path)
    return {
        "seconds": round(seconds, 3),
        "checksum_seconds": round(spent[0], 5),
        "blocks": described["blocks"],
        "bytes": described["bytes"]["total"],
        "bytes_per_token": round(described["bytes_per_token"]["total"], 2),
    }


def ask(
    session: Session, store: str, settings: Mapping[str, Any], samples: list[Sample], path: Path
) -> tuple[dict[str, Any], list[str]]:
    """Open a file and ask each question about it; return the seconds of each, and the replies."""
    reader = with_settings(session, {"store": store} | dict(settings))
    memory, opening = timing(lambda: open_memory(path))
    row: dict[str, Any] = {"store": store, "settings": dict(settings), "open_seconds": round(opening, 4)}
    replies = []
    for number, sample in enumerate(samples, 1):
        job = Job(reader.system, memory, sample.question)
        trace, seconds = timing(lambda job=job: answer(job, reader.policy()))  # type: ignore[misc]
        if trace.failure is not None:
            raise trace.failure.exception()
        row[f"question_{number}_seconds"] = round(seconds, 3)
        replies += [step.reply.text for step in trace.steps]
    return row, replies


def checks(path: Path) -> dict[str, float]:
    """Return the seconds to open a file, to check the slots of all its blocks, and to verify all of it."""
    memory, opening = timing(lambda: open_memory(path))
    _, checking = timing(lambda: sum(block.slots is not None for block in memory.blocks))
    _, verifying = timing(lambda: verify(path))
    seconds = {"open_seconds": opening, "check_all_blocks_seconds": checking, "verify_seconds": verifying}
    return {name: round(value, 4) for name, value in seconds.items()}


def warm_up(session: Session, sample: Sample, folder: Path) -> None:
    """Fold and ask once, so that what is loaded on first use counts for neither kind."""
    document = Document("one", text=sample.document.read()[:2000])
    fold_file([document], folder / "one", session)
    answer(Job(session.system, open_memory(folder / "one"), sample.question), session.policy())


def with_settings(session: Session, settings: Mapping[str, Any]) -> Session:
    """Return the session with other settings of the system."""
    return replace(session, system=make_system(Kvbank.name, session.model, None, dict(settings)))


def timing(work: Callable[[], Made]) -> tuple[Made, float]:
    """Return the result of some work, and the CPU seconds that it took."""
    started = time.process_time()
    made = work()
    return made, time.process_time() - started


if __name__ == "__main__":
    sys.exit(main())
