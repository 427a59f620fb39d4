"""A trace file that grows call by call, so that an interrupted reading goes on without repeating a call.

Every line is handed to the operating system at once, so a killed process loses no call that was complete.  A file is
continued only with what its calls depend on, which is checked before anything is written (`core.stored_trace`).  The
scheduler compares each stored call with the one that the system makes, and uses its reply.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from io import FileIO
from pathlib import Path
from typing import Any, Self

from memfold.core.errors import DataError
from memfold.core.job import RECORDED
from memfold.core.lock import lock_open
from memfold.core.outputs import check_file, kind_of, writing
from memfold.core.stored_trace import (
    ANSWERED,
    ASKED,
    CALL,
    EVENT,
    OTHERWISE,
    Asked,
    Stored,
    case_of,
    check_questions,
    parse,
    read_traces,
)
from memfold.core.trace_json import step_record, trace_record
from memfold.core.types import Step, Trace

EXISTS = "continue it with --resume (resume=True), or give another name"
OnCall = Callable[[Step], None]


def check_continues(path: Path, questions: Sequence[str]) -> int:
    """Refuse to continue a file that is not there, cannot be read, or has calls for other questions.

    Returns the number of calls in the file.

    Raises:
        DataError: with what differs.
    """
    if kind_of(path) is None:
        raise DataError(f"there is no {path} to continue; leave --resume (resume=True) out")
    check_file(path, replace=True)
    stored = read_traces(path)
    check_questions(path, stored, questions)
    return sum(len(each.steps) for each in stored.values())


class Recording:
    """Tells of each call of some questions (`on_call`) and keeps none; `TraceFile` keeps them in a file."""

    def __init__(self, on_call: OnCall | None = None) -> None:
        self._on_call = on_call

    def recorded(self, number: int) -> tuple[Step | None, ...]:
        """Return the steps of question `number`, counted from 0, that are stored, with None for a missing one."""
        return ()

    def add(self, number: int, index: int, step: Step) -> None:
        """Take step `index` of a question, which may be one that is stored."""
        if self._on_call is not None:
            self._on_call(step)

    def end(self, number: int, trace: Trace) -> None:
        """Take the end of a question."""

    def close(self) -> None:
        """Let others write."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class TraceFile(Recording):
    """Keeps the calls of some questions in one file, which is made with the first call.

    `asked` is what is asked, for each question.  With `resume`, an existing file is continued.

    Raises:
        DataError: for a file that exists, or with `resume` one that does not, has calls of something else or is being
            written by another process.
    """

    def __init__(self, path: Path, asked: Sequence[Asked], resume: bool = False, on_call: OnCall | None = None) -> None:
        super().__init__(on_call)
        self.path, self._asked = path, asked
        self._stored: dict[str, Stored] = {}
        self._file: FileIO | None = None
        self._whole: bytes | None = b""  # what is kept of an old file; None once its end is mended
        if not resume:
            check_file(path, advice=EXISTS)
            return
        check_continues(path, [each.question for each in asked])
        with writing(path):
            self._file = path.open("r+b", buffering=0)
            try:
                self._read(self._file)
            except BaseException:
                self._file.close()
                raise

    def recorded(self, number: int) -> tuple[Step | None, ...]:
        """Return the steps of question `number`, counted from 0, that are stored, with None for a missing one."""
        stored = self._stored.get(case_of(number))
        steps = {} if stored is None else stored.steps
        return tuple(steps.get(index) for index in range(max(steps, default=-1) + 1))

    def add(self, number: int, index: int, step: Step) -> None:
        """Store step `index` of a question, unless it is stored.

        Raises:
            DataError: if the file cannot be written.
        """
        stored = self._question(number)
        if index not in stored.steps:
            self._write({EVENT: CALL, "case": case_of(number), "number": index} | step_record(step))
            stored.steps[index], stored.answered = step, None
        super().add(number, index, step)

    def end(self, number: int, trace: Trace) -> None:
        """Store how a question ended; one that failed before its first call leaves nothing.

        Raises:
            DataError: for stored calls that differ from those that the system makes; nothing is then written.
        """
        case, failure, answer = case_of(number), trace.failure, trace.answer
        if failure is not None and failure.boundary == RECORDED:
            raise DataError(f"{self.path}, {case}: {failure.message}")
        if failure is not None and case not in self._stored:
            return
        stored = self._question(number)
        if stored.is_answered:
            return
        described = trace_record(replace(trace, steps=()))
        stored.answered = {
            "answer": answer.text if answer else "",
            "reply": answer.reply if answer else "",
            "error": None if failure is None else str(failure),
            "trace": {name: described[name] for name in ("answer", "failure", "cost")},
        }
        self._write({EVENT: ANSWERED, "case": case} | stored.answered)

    def close(self) -> None:
        """Let others write."""
        if self._file is not None:
            self._file.close()

    def _question(self, number: int) -> Stored:
        """Return what is stored of a question; its first line is written if there is none."""
        case = case_of(number)
        if case not in self._stored:
            self._write({EVENT: ASKED, "case": case} | asdict(self._asked[number]))
            self._stored[case] = Stored(self._asked[number])
        return self._stored[case]

    def _read(self, file: FileIO) -> None:
        """Lock an old file, read it and compare it with what is asked."""
        lock_open(file, self.path)
        file.seek(0)
        data = file.readall()
        self._stored, end = parse(self.path, data)
        self._whole = data[:end]
        check_questions(self.path, self._stored, [each.question for each in self._asked])
        for number, asked in enumerate(self._asked):
            stored = self._stored.get(case_of(number))
            difference = None if stored is None else stored.asked.difference(asked)
            if difference is not None:
                raise DataError(f"{self.path} holds calls {difference}; {OTHERWISE}")

    def _write(self, record: Mapping[str, Any]) -> None:
        """Add a line and hand it to the operating system; half a line at the end of an old file is cut off first."""
        line = _line(record)
        with writing(self.path):
            if self._file is None:
                self._file = self.path.open("xb", buffering=0)
                lock_open(self._file, self.path)
            if self._whole is not None:
                line = b"\n" * (self._whole[-1:] not in (b"", b"\n")) + line
                self._file.truncate(len(self._whole))
                self._file.seek(len(self._whole))
                self._whole = None
            left = memoryview(line)
            while left:
                left = left[self._file.write(left) :]


def _line(record: Mapping[str, Any]) -> bytes:
    """Return JSON on one line, with escapes only where a text has characters that UTF-8 does not have."""
    try:
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(record).encode() + b"\n"
