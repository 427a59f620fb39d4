"""Reads a file of questions, with one JSON object on each line, and answers them with one on each line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memfold.cli.recording import TraceOptions, keeping
from memfold.core.errors import DataError
from memfold.core.job import check_question
from memfold.readers.text import read_text

if TYPE_CHECKING:
    from memfold.api import FoldedMemory

FORM = '{"question": "..."}'


def read_questions(path: Path) -> list[str]:
    """Return the questions of a file of JSON lines, or of a pipe; blank lines and a byte order mark are skipped.

    Raises:
        DataError: for a file that cannot be read or holds no question, or a line of another form.
    """
    # not splitlines: a line separator (U+2028) may stand in a JSON string
    lines = "".join(read_text(path)).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    found = [_question(f"{path}, line {number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise DataError(f"{path} holds no questions; write one {FORM} on each line")
    return found


def answer_all(memory: FoldedMemory, questions: list[str], options: TraceOptions) -> int:
    """Print one JSON line for each question in order, as soon as all questions before it are answered.

    Returns the number of questions without an answer.
    """
    from memfold.cli.output import notes, print_json
    from memfold.cli.reading import reading

    if memory.warning is not None:
        notes().print(f"warning: {memory.warning}", style="yellow", markup=False)
    ready: dict[int, dict[str, Any]] = {}
    shown = failed = 0
    with keeping(options.path), reading(memory.memory, options.stored, quiet=True) as on_call:
        answers = memory.answers(questions, trace=options.path, resume=options.resume, on_call=on_call)
        for number, response in answers:
            ready[number] = {"question": questions[number]} | response.record()
            failed += not response.text
            while shown in ready:
                print_json(ready.pop(shown))
                shown += 1
    return failed


def _question(where: str, line: str) -> str:
    """Return the question of a line; `where` names the line in messages."""
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {error}; write {FORM}") from None
    if not isinstance(record, dict) or "question" not in record:
        raise DataError(f"{where} has no question; write {FORM}")
    question = record["question"]
    if not isinstance(question, str):
        raise DataError(f"{where}: question = {json.dumps(question)} is not a string; write {FORM}")
    try:
        check_question(question)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    return question
