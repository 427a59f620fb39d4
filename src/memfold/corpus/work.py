"""Folding many files, each into a memory of its own: what there is to do, and the worker that does it.

A worker has a model, and folds one file after another.  What an engine adds is where workers run.  A memory that is
there already, whole, and folded from the same text in the same way, is left as it is, so that a run which was stopped
is continued by starting it again.  A file that cannot be folded has an outcome that says why, and stops no other.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memfold.core.errors import BusyError, DataError, DocumentError, Failure, MemfoldError
from memfold.core.outputs import writing
from memfold.core.registry import check_keeps_text
from memfold.core.types import Block
from memfold.folding import fold_file, is_folded
from memfold.memory import WriteLock
from memfold.memory.reader import read_manifest
from memfold.readers.files import open_document
from memfold.session import Session, open_session
from memfold.sources import MEMORY_SUFFIX, Skipped, list_files

PATIENCE = 120.0  # seconds until a file system has noticed that the owner of a lock is gone
PAUSE = 0.1  # seconds between two attempts to take a lock
FOLDED, KEPT, FAILED = "folded", "kept", "failed"


@dataclass(frozen=True)
class Order:
    """How every file is folded: the arguments of `open_session`, then those of `fold_file`."""

    system: str
    model: str
    ratio: int | None = None
    device: str = "cpu"
    weights: str = "float32"  # their data type
    settings: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "bfloat16"
    keep_text: bool = True
    force: bool = False

    def session(self) -> Session:
        """Load the model."""
        return open_session(self.system, self.model, self.ratio, self.device, self.weights, self.settings)


@dataclass(frozen=True)
class Job:
    """A file to fold: its absolute path, the name of its document, and the absolute path of its memory."""

    path: Path
    source: str
    memory: Path

    def failed(self, problem: str) -> Outcome:
        """Return the outcome of a file that was not folded."""
        return Outcome(self.source, FAILED, problem=problem)


@dataclass(frozen=True)
class Outcome:
    """What became of a file.

    `state` is `folded`, `kept` (its memory is there already) or `failed`; then `problem` is a sentence about the file.
    `tokens` were folded.
    """

    source: str
    state: str
    tokens: int = 0
    problem: str | None = None


class Worker:
    """Folds files with one model, which `load` loads.  It belongs to one process."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._session: Session | None = None

    def load(self) -> Failure | None:
        """Load the model; return why that is not possible, if it is not."""
        try:
            session = self._order.session()
            check_keeps_text(session.system, self._order.keep_text)
            self._session = session
        except Exception as error:
            return Failure.of("worker", error)
        return None

    def fold(self, job: Job, again: bool = False) -> Outcome:
        """Fold a file, or continue a fold of it that was interrupted.

        `again` says that another worker ended while it folded this file; its lock may take a while to be free.
        """
        assert self._session is not None, "load comes first"
        try:
            return self._fold(job, self._session, PATIENCE if again else 0.0)
        except DocumentError as error:
            return job.failed(f"{job.source} {error.reason}")
        except MemfoldError as error:
            return job.failed(f"{job.source}: {error}")
        except Exception as error:  # the other files may be free of it
            return job.failed(f"{job.source}: {type(error).__name__}: {error}")

    def _fold(self, job: Job, session: Session, patience: float) -> Outcome:
        order, tokens = self._order, 0
        document = open_document(job.path, job.source)
        if is_folded([document], job.memory, session, keep_text=order.keep_text, dtype=order.dtype):
            return Outcome(job.source, KEPT)
        with writing(job.memory):
            job.memory.parent.mkdir(parents=True, exist_ok=True)

        def count(block: Block) -> None:
            nonlocal tokens
            tokens += block.token_count

        with _lock(job.memory, patience) as lock:
            if not order.force:
                _check_same_text(job.memory, document.sha256())
            kept: dict[str, Any] = {"keep_text": order.keep_text, "dtype": order.dtype}
            fold_file([document], job.memory, session, **kept, progress=count, force=order.force, lock=lock)
        return Outcome(job.source, FOLDED, tokens)


def find_jobs(sources: Sequence[str | Path], folder: Path) -> tuple[list[Job], list[Skipped]]:
    """Return a job for each file of the sources, with its memory in a folder, and what is skipped in the sources.

    The memory of `inner/a.txt` is `inner/a.txt.fold`; files of the folder that are called so are no sources.

    Raises:
        DataError: for a named path that does not exist, or if there is no file.
    """
    listed, skipped = list_files(sources)
    inside = folder.absolute()
    jobs = [
        Job(file.path, file.source, inside / file.relative.with_name(file.relative.name + MEMORY_SUFFIX))
        for file in listed
        if not (file.path.suffix == MEMORY_SUFFIX and file.path.is_relative_to(inside))
    ]
    if not jobs:
        raise DataError(f"no file to fold in {', '.join(map(str, sources))}; name a folder with files")
    return jobs, skipped


def _lock(memory: Path, patience: float) -> WriteLock:
    """Take the lock of a memory file; try again for that many seconds."""
    end = time.monotonic() + patience
    while True:
        try:
            return WriteLock(memory)
        except BusyError:
            if time.monotonic() >= end:
                raise
            time.sleep(PAUSE)


def _check_same_text(memory: Path, sha256: str) -> None:
    """Refuse to replace the memory of another text: the file was changed, or a file of another folder has its name.

    Raises:
        DataError: with what to do.
    """
    manifest = read_manifest(memory)
    if manifest is not None and manifest.sha256 != (sha256,):
        raise DataError(f"{memory} is the memory of another text; choose another folder, or give --force to replace it")
