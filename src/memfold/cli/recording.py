"""The option --trace of `memfold ask`: writes all calls of the answers to a file that `memfold inspect` shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memfold.core.errors import ConfigError
from memfold.core.outputs import check_file

if TYPE_CHECKING:
    from memfold.core.types import Trace

SUFFIX = ".jsonl"


def check_recording(path: Path | None, question: str | None, questions: Path | None) -> None:
    """Refuse to record a conversation, and a file that could not be shown or that exists."""
    if path is None:
        return
    if question is None and questions is None:
        raise ConfigError(f"--trace {path} records answers to QUESTION or --questions; give one of them")
    if path.suffix != SUFFIX:
        raise ConfigError(f"--trace {path} is not possible; use a name that ends in {SUFFIX}")
    check_file(path, advice="give another name")


def record(path: Path | None, traces: Sequence[Trace]) -> None:
    """Write these traces, if there is a path."""
    if path is not None:
        from memfold.rl.trace_file import write_answers

        write_answers(path, traces)
