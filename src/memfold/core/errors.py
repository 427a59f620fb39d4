"""Exception classes: one for each kind of error that callers handle differently.

Every deliberate error is a `MemfoldError` with a message of one line: the value, the allowed range, what to do.  The
command line prints that line and exits with `exit_code`.  A question that fails does not raise; the error becomes a
`Failure` on its trace.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CLOSE = 0.6  # similarity from which on a known name is suggested for an unknown one


class MemfoldError(Exception):
    """Base class of all deliberate errors; `exit_code` 2 stands for bad usage or bad input."""

    exit_code = 2


class ConfigError(MemfoldError):
    """A setting, recipe key or name that cannot be used."""


class DataError(MemfoldError):
    """A document, question or memory file that cannot be read, or that does not match the model or the system."""


class DocumentError(DataError):
    """A file that no document can be read from; `reason` is the predicate of the message, such as `is empty`."""

    def __init__(self, name: object, reason: str) -> None:
        super().__init__(f"{name} {reason}")
        self.reason = reason


class BusyError(DataError):
    """A file or folder that another process is writing."""


class CheckpointError(MemfoldError):
    """Weights, a tokenizer or a run folder that are missing, damaged or inconsistent."""


class CallError(MemfoldError):
    """A question or a training step failed at run time.

    `boundary` names the component that failed: system, policy, judge, reward, training or worker.
    """

    exit_code = 1

    def __init__(self, boundary: str, message: str) -> None:
        super().__init__(f"{boundary}: {message}")
        self.boundary, self.message = boundary, message


_INPUT_ERRORS = (ConfigError, DataError, CheckpointError)


@dataclass(frozen=True)
class Failure:
    """Why a question has no answer: the component that failed, the name of the error class, and the message."""

    boundary: str
    kind: str
    message: str

    @classmethod
    def of(cls, boundary: str, error: Exception) -> Failure:
        """Record an error; the boundary of a `CallError` overrides `boundary`."""
        if isinstance(error, CallError):
            return cls(error.boundary, CallError.__name__, error.message)
        return cls(boundary, type(error).__name__, str(error))

    def __str__(self) -> str:
        kind = "" if self.kind == CallError.__name__ else f"{self.kind}: "
        return f"{self.boundary}: {kind}{self.message}"

    def exception(self) -> MemfoldError:
        """Return an exception to raise: input errors keep their class, all others become a `CallError`."""
        for error in _INPUT_ERRORS:
            if self.kind == error.__name__:
                return error(self.message)
        kind = "" if self.kind == CallError.__name__ else f"{self.kind}: "
        return CallError(self.boundary, f"{kind}{self.message}")


def unknown(kind: str, name: object, known: Iterable[str], where: str = "") -> ConfigError:
    """Return a `ConfigError` for a name that is not in a table, with the nearest known name if one is close.

    `where` is the path of the table, which precedes every name.

    >>> str(unknown("colour", "Gren", ["blue", "green"]))
    "unknown colour 'Gren'; nearest: 'green'; known: blue, green"
    >>> str(unknown("colour", "seven", ["blue", "green"]))
    "unknown colour 'seven'; known: blue, green"
    >>> str(unknown("key", "sice", ["size"], "leaves[1]"))
    "unknown key 'leaves[1].sice'; nearest: 'leaves[1].size'; known: leaves[1].size"
    """
    names, prefix = sorted(known), f"{where}." if where else ""
    near = _nearest(str(name), names)
    hint = f"; nearest: {prefix + near!r}" if near else ""
    shown = repr(f"{prefix}{name}") if prefix else repr(name)
    listed = ", ".join(f"{prefix}{each}" for each in names) or "none"
    return ConfigError(f"unknown {kind} {shown}{hint}; known: {listed}")


def _nearest(name: str, names: Sequence[str]) -> str | None:
    """Return the known name that is close to `name`, whatever their cases."""
    caseless = {known.lower(): known for known in names}
    near = difflib.get_close_matches(name.lower(), caseless, n=1, cutoff=CLOSE)
    return caseless[near[0]] if near else None
