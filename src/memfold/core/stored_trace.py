"""What the lines of a trace file say, and whether calls that are stored are those of a question that is asked.

Such a file grows call by call (`core.trace_file`).  It has JSON lines: what is asked of what (`asked`), each call with
its reply (`call`), and the answer (`answered`).  Lines of several questions may alternate; `case` says whose a line is.
Half a line at the end, left by a kill or by a process that is writing it, is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from memfold.core.config import build
from memfold.core.errors import ConfigError, DataError
from memfold.core.model import Model
from memfold.core.outputs import reason
from memfold.core.registry import AnySystem
from memfold.core.trace_json import read_step, step_record
from memfold.core.types import Cost, Memory, Step

EVENT, ASKED, CALL, ANSWERED = "event", "asked", "call", "answered"
BEGINNING = f'{{"{EVENT}": "{ASKED}"'  # of every file
FOREIGN = "give a file that memfold ask --trace wrote"
OTHERWISE = "ask as it was asked, or give another name"
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError)  # what odd lines raise
SHORT = 12  # characters of a fingerprint that a message shows


def case_of(number: int) -> str:
    """Return the name of question `number`, counted from 0."""
    return f"question {number + 1}"


@dataclass(frozen=True)
class MemoryAsked:
    """A memory that is asked: `name` says how it was folded, `sha256` and `sources` from which documents."""

    name: str
    sha256: tuple[str, ...]
    sources: tuple[str, ...]
    dtype: str | None


@dataclass(frozen=True)
class ModelAsked:
    """The model that answers, as `memfold.core.model.Model` describes it."""

    name: str
    identity: str
    precision: str

    def __str__(self) -> str:
        shown = self.identity[:SHORT] if self.identity.isalnum() else self.identity
        return f"{self.name!r} ({shown})"


@dataclass(frozen=True)
class Asked:
    """All that the calls of a question depend on, and names for people."""

    question: str
    system: str
    settings: dict[str, Any]
    memory: MemoryAsked
    model: ModelAsked

    @classmethod
    def of(cls, question: str, system: AnySystem, memory: Memory, model: Model) -> Asked:
        """Describe what is asked; settings have the types that they have in a file."""
        settings = json.loads(json.dumps(system.settings))
        described = MemoryAsked(memory.name, memory.sha256, memory.sources, memory.dtype)
        return cls(question, system.name, settings, described, ModelAsked(model.name, model.identity, model.precision))

    def difference(self, other: Asked) -> str | None:
        """Return in words what these calls depend on and those of another question do not; None if nothing.

        The two questions are not compared.
        """
        memory, model = self.memory, self.model
        if memory.sha256 != other.memory.sha256:
            return "about other documents than these"
        if self.system != other.system:
            return f"of system {self.system!r}, not {other.system!r}"
        for name in sorted(self.settings.keys() | other.settings.keys()):
            ours, theirs = self.settings.get(name), other.settings.get(name)
            if ours != theirs:
                return f"with {name} = {ours!r}, not {theirs!r}"
        if model.identity != other.model.identity:
            return f"of model {model}, not {other.model}"
        if model.precision != other.model.precision:
            return f"of a model in {model.precision}, not in {other.model.precision}"
        if (memory.name, memory.dtype) != (other.memory.name, other.memory.dtype):
            return "about another folding of these documents"
        return None


@dataclass
class Stored:
    """What a file holds of one question: what was asked, the steps by number, and the line of the answer."""

    asked: Asked
    steps: dict[int, Step] = field(default_factory=dict)
    answered: dict[str, Any] | None = None

    @property
    def is_answered(self) -> bool:
        """Whether the question has an answer; one that failed has none."""
        return self.answered is not None and self.answered["error"] is None

    def record(self, case: str) -> dict[str, Any]:
        """Return all that is known of a question as JSON values, in the form of other recorded replies."""
        asked = asdict(self.asked)
        steps = [step_record(step) for _, step in sorted(self.steps.items())]
        trace = {name: asked[name] for name in ("question", "system", "settings")} | {"steps": steps}
        trace |= {"answer": None, "reward": None, "failure": None, "cost": asdict(Cost())}
        ended = self.answered or {"answer": "", "reply": "", "error": None, "trace": {}}
        return {
            "case": case,
            "system": self.asked.system,
            "kind": "",
            "question": self.asked.question,
            "accepted": [],
            "answer": ended["answer"],
            "reply": ended["reply"],
            "reward": None,
            "error": ended["error"],
            "unfinished": self.answered is None,
            "memory": asked["memory"],
            "model": asked["model"],
            "trace": trace | ended["trace"],
        }


def begins_trace(line: str) -> bool:
    """Return whether a line is the first one of a trace file that grew call by call, or the beginning of it."""
    return line.startswith(BEGINNING) or (line != "" and BEGINNING.startswith(line))


def read_traces(path: Path) -> dict[str, Stored]:
    """Return what a trace file holds of each question, by case, in the order of the questions.

    Raises:
        DataError: for a file that cannot be read, or a line that is not one of a trace.
    """
    try:
        stored, _ = parse(path, path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {reason(error)}") from None
    return dict(sorted(stored.items(), key=lambda item: (len(item[0]), item[0])))


def parse(path: Path, data: bytes) -> tuple[dict[str, Stored], int]:
    """Return what the lines of a file hold of each question, and the number of bytes without half a line at the end."""
    lines, end = data.split(b"\n"), len(data)
    if not _is_json(lines[-1]):
        end -= len(lines.pop())
    stored: dict[str, Stored] = {}
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                _take(stored, json.loads(line))
        except UNREADABLE:
            raise DataError(f"{path}, line {number} is not a line of a trace; {FOREIGN}") from None
    if not stored and data and not begins_trace(data.decode(errors="replace")):  # the half line is of another file
        raise DataError(f"{path} is not a trace; {FOREIGN}")
    return stored, end


def _take(stored: dict[str, Stored], line: Mapping[str, Any]) -> None:
    """Add what a line says to what is known of its question."""
    event, case = line[EVENT], line["case"]
    said = {name: value for name, value in line.items() if name not in (EVENT, "case")}
    if event == ASKED:
        stored.setdefault(case, Stored(build(Asked, said)))
    elif event == CALL:
        stored[case].steps.setdefault(int(line["number"]), read_step(line))
        stored[case].answered = None  # it had failed, and goes on
    elif event == ANSWERED:
        stored[case].answered = {name: said[name] for name in ("answer", "reply", "error", "trace")}
    else:
        raise ValueError(event)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def check_questions(path: Path, stored: Mapping[str, Stored], questions: Sequence[str]) -> None:
    """Refuse a file with calls for a question that is not asked."""
    asked = {case_of(number): question for number, question in enumerate(questions)}
    for case, known in stored.items():
        old, new = known.asked.question, asked.get(case)
        if old != new:
            what = f"the question {old!r}, not {new!r}" if new is not None else f"{case}, which is not asked: {old!r}"
            raise DataError(f"{path} holds calls for {what}; {OTHERWISE}")
