"""One JSON line for each sample and system, written as it is finished, so that an interrupted run goes on.

A folder belongs to one set of arguments and one model: another set is refused before anything is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from memfold.core.config import build
from memfold.core.errors import ConfigError, DataError
from memfold.core.types import Citation, Span
from memfold.scoring.expansion import Expansion

SAMPLES_FILE, ARGUMENTS_FILE = "samples.jsonl", "arguments.json"


@dataclass(frozen=True)
class Spent:
    """What one sample cost.  Seconds are those of the batch it ran in: for throughput, not for waiting time.

    `positions` are those that the decoder saw of the memory; `fold_seconds` is this document's part of its batch.
    """

    calls: int = 0
    document_tokens: int = 0
    slots: int = 0
    positions: int = 0
    effective_ratio: float = 0.0
    generated_tokens: int = 0
    seconds: float = 0.0
    fold_seconds: float = 0.0


@dataclass(frozen=True)
class Record:
    """One line of `samples.jsonl`.  `system` is the label, `ratio` the setting (None for systems without one).

    `figures` are the suite's own scores; offsets in `citations` and `evidence` are characters of the document.
    `expansions` are where the reply writes the document out again, `invented` the names that it makes up.
    """

    case: str
    system: str
    suite: str
    seed: int
    size: int
    split: str
    kind: str
    hops: int
    question: str
    accepted: tuple[str, ...]
    answer: str
    reply: str
    correct: bool
    ratio: int | None = None
    citations: tuple[Citation, ...] = ()
    evidence: tuple[Span, ...] = ()
    expansions: tuple[Expansion, ...] = ()
    invented: tuple[str, ...] = ()
    figures: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    cost: Spent = Spent()


class RecordFile:
    """The samples of one folder: those that are there already, and an append for each new one."""

    def __init__(self, folder: Path, arguments: Mapping[str, Any]) -> None:
        """Open or make the folder.

        Raises:
            ConfigError: when the folder cannot be made or holds samples of other arguments, naming the first that
                differs.
            DataError: when a line of it cannot be read.
        """
        self.path = folder / SAMPLES_FILE
        resolved = json.loads(json.dumps(dict(arguments)))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make the folder {folder}: {error.strerror}; name another --out") from None
        _check(folder / ARGUMENTS_FILE, resolved)
        (folder / ARGUMENTS_FILE).write_text(json.dumps(resolved, indent=2) + "\n")
        self.records = _read(self.path)
        self.done = {(record.system, record.case) for record in self.records}

    def append(self, record: Record) -> None:
        """Add a line and hand it to the operating system at once."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
        self.records.append(record)
        self.done.add((record.system, record.case))


def _check(path: Path, arguments: dict[str, Any]) -> None:
    if not path.exists():
        return
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}; name another --out") from None
    for key in sorted(stored.keys() | arguments.keys()):
        if stored.get(key) != arguments.get(key):
            raise ConfigError(
                f"{path.parent} holds samples with {key} = {stored.get(key)!r}, asked for {arguments.get(key)!r}; "
                "name another --out"
            )


def _read(path: Path) -> list[Record]:
    """The whole lines of the file; half a line at its end, left by a kill, is cut off."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)
    records = []
    for number, line in enumerate(data[:whole].split(b"\n")[:-1], 1):
        try:
            records.append(build(Record, json.loads(line)))
        except (ValueError, ConfigError) as error:
            raise DataError(f"{path}, line {number} cannot be read: {error}; delete it to ask again") from None
    return records
