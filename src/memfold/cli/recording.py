"""The options --trace and --resume of `memfold ask`: keep each call in a file, and go on from the calls of a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from memfold.core.errors import CallError, ConfigError
from memfold.core.outputs import check_file

SUFFIX = ".jsonl"


@dataclass(frozen=True)
class TraceOptions:
    """The file of the calls, whether it is continued, and how many calls it holds."""

    path: Path | None
    resume: bool
    stored: int = 0


def check_recording(path: Path | None, resume: bool, questions: Sequence[str] | None) -> TraceOptions:
    """Refuse to record a conversation, and a file that could not be shown or that exists; or to continue another one.

    `questions` are those that are asked; None in a conversation.  What else the calls depend on is compared later, when
    the model is loaded.

    Raises:
        ConfigError: for an option that has no meaning here.
        DataError: for a file that cannot be used.
    """
    from memfold.core.trace_file import EXISTS, check_continues

    if path is None:
        if resume:
            raise ConfigError("--resume goes on with the calls of a file; give --trace FILE, too")
        return TraceOptions(None, False)
    if questions is None:
        raise ConfigError(f"--trace {path} records answers to QUESTION or --questions; give one of them")
    if path.suffix != SUFFIX:
        raise ConfigError(f"--trace {path} is not possible; use a name that ends in {SUFFIX}")
    if not resume:
        check_file(path, advice=EXISTS)
        return TraceOptions(path, False)
    return TraceOptions(path, True, check_continues(path, questions))


@contextmanager
def keeping(path: Path | None) -> Iterator[None]:
    """Say where the calls so far are, and how to go on, if the questions are interrupted or fail."""
    from memfold.cli.output import Interrupted

    try:
        yield
    except (KeyboardInterrupt, CallError) as error:
        if path is None or not path.exists():
            raise
        kept = f"the calls so far are in {path}; add --resume to go on"
        if isinstance(error, CallError):
            raise CallError(error.boundary, f"{error.message}; {kept}") from None
        raise Interrupted(f"interrupted; {kept}") from None
