"""One JSON line for each sample and system, written as it is finished, so that an interrupted run goes on.

A folder belongs to one set of arguments and one model: another set is refused before anything is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from memfold.core.config import build
from memfold.core.errors import ConfigError, DataError
from memfold.core.outputs import ANOTHER, FILE, check_files, kind_of, write_text, writing
from memfold.core.types import Citation, Span
from memfold.scoring.expansion import Expansion

SAMPLES_FILE, ARGUMENTS_FILE = "samples.jsonl", "arguments.json"
TABLE_FILE, RESULT_FILE = "table.md", "result.json"
SUITE = "suite"  # the argument by which arguments.json is known


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
    `expansions` are where the reply writes the document out again, `invented` the names that it makes up.  `wrong` is
    the class of a wrong answer (`memfold.evaluation.wrong_answers`), if it has one.
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
    wrong: str | None = None


class RecordFile:
    """The samples of one folder: those that are there already, and an append for each new one."""

    def __init__(self, folder: Path, arguments: Mapping[str, Any]) -> None:
        """Read what the folder holds; it is made with the first sample.

        Raises:
            ConfigError: when the folder holds samples of other arguments, naming the first that differs.
            DataError: when it cannot be made, holds other files, or has a line that cannot be read.
        """
        self.path = folder / SAMPLES_FILE
        self._arguments = arguments
        check_results(folder, arguments)
        self.records = _read(self.path)
        self.done = {(record.system, record.case) for record in self.records}

    def append(self, record: Record) -> None:
        """Add a line and hand it to the operating system at once.

        Raises:
            DataError: if it cannot be written.
        """
        with writing(self.path):
            if not self.records:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_text(self.path.with_name(ARGUMENTS_FILE), json.dumps(dict(self._arguments), indent=2) + "\n")
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
        self.records.append(record)
        self.done.add((record.system, record.case))


def check_results(
    folder: Path, arguments: Mapping[str, Any], inputs: Iterable[Path] = (), *, partly: bool = False
) -> None:
    """Refuse a folder to which samples of these arguments cannot be added; nothing is written.

    Samples that are there must be of the same arguments; with `partly`, more arguments are still to follow.  Without
    samples the folder must hold nothing that the report would replace.

    Raises:
        ConfigError: for samples of other arguments, naming the first that differs.
        DataError: for a folder that cannot be made or holds other files.
    """
    names = (SAMPLES_FILE, ARGUMENTS_FILE, RESULT_FILE, TABLE_FILE)
    check_files(folder, names, inputs, replace=True)
    if not folder.exists():
        return
    stored = _stored_arguments(folder / ARGUMENTS_FILE)
    if _has_lines(folder / SAMPLES_FILE):
        _check_same(folder, stored, json.loads(json.dumps(dict(arguments))), partly)
        return
    begun = stored is not None  # by a run that was stopped before its first sample
    check_files(folder, names if not begun else (RESULT_FILE, TABLE_FILE), advice=ANOTHER)
    plots = [plot for plot in sorted(folder.glob("*.png")) if not plot.with_suffix(".json").exists()]
    if plots:
        raise DataError(f"{plots[0]} exists already and could be replaced by a plot; {ANOTHER}")


def _check_same(folder: Path, stored: dict[str, Any] | None, arguments: dict[str, Any], partly: bool) -> None:
    """Refuse samples of other arguments."""
    if stored is None:
        raise DataError(f"{folder / SAMPLES_FILE} is not of an evaluation: it has no {ARGUMENTS_FILE}; {ANOTHER}")
    for key in sorted(arguments.keys() if partly else stored.keys() | arguments.keys()):
        if stored.get(key) != arguments.get(key):
            raise ConfigError(
                f"{folder} holds samples with {key} = {stored.get(key)!r}, asked for {arguments.get(key)!r}; "
                "name another --out"
            )


def _stored_arguments(path: Path) -> dict[str, Any] | None:
    """Return the arguments of an evaluation; None if there is no such file.

    Raises:
        DataError: if the file is another one, or damaged.
    """
    if kind_of(path) != FILE:
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        known = isinstance(stored, dict) and SUITE in stored
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is damaged: {error}; name another --out") from None
    if not known:
        raise DataError(f"{path} is not of an evaluation; {ANOTHER}")
    return dict(stored)


def _has_lines(path: Path) -> bool:
    """Whether a file has a whole line."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        return file.readline().endswith(b"\n")


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
