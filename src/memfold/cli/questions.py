"""Reads a file of questions, one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path

from memfold.core.errors import DataError


def read_questions(path: Path) -> list[str]:
    """The questions of a file of JSON lines."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise DataError(f"cannot read {path}: {reason}; give a file of JSON lines") from None
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(str(json.loads(line)["question"]))
        except (ValueError, KeyError, TypeError):
            raise DataError(f'{path}, line {number} is not {{"question": ...}}; correct it') from None
        if not found[-1].strip():
            raise DataError(f"{path}, line {number}: the question is empty; ask something")
    if not found:
        raise DataError(f"{path} holds no questions; give at least one line")
    return found
