"""The few kinds of error that somebody acts on differently.

Every error raised on purpose is a `MemfoldError` whose message is one line: the value, the allowed range, what to do.
The command line prints that line and exits with `exit_code`.  A sample that fails becomes data instead: a `Failure` on
its own trace.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


class MemfoldError(Exception):
    """Base of all errors raised on purpose; bad usage or bad input unless a subclass says otherwise."""

    exit_code = 2


class ConfigError(MemfoldError):
    """A setting, recipe key or name that cannot be used."""


class DataError(MemfoldError):
    """A document, question or memory file that cannot be read or does not fit."""


class CheckpointError(MemfoldError):
    """Weights, tokenizer or run folder that are missing, damaged or do not belong together."""


class CallError(MemfoldError):
    """One sample, or a step of training, failed while it ran.

    `boundary` names the side that failed: system, policy, judge, reward or training.
    """

    exit_code = 1

    def __init__(self, boundary: str, message: str) -> None:
        super().__init__(f"{boundary}: {message}")
        self.boundary, self.message = boundary, message


_INPUT_ERRORS = (ConfigError, DataError, CheckpointError)


@dataclass(frozen=True)
class Failure:
    """Why a sample has no answer: the side that failed, the kind of error, and its message."""

    boundary: str
    kind: str
    message: str

    @classmethod
    def of(cls, boundary: str, error: Exception) -> Failure:
        """The record of an error; a `CallError` knows its boundary better."""
        if isinstance(error, CallError):
            return cls(error.boundary, CallError.__name__, error.message)
        return cls(boundary, type(error).__name__, str(error))

    def __str__(self) -> str:
        kind = "" if self.kind == CallError.__name__ else f"{self.kind}: "
        return f"{self.boundary}: {kind}{self.message}"

    def exception(self) -> MemfoldError:
        """The error as it can be raised again: bad input under its own class, anything else as a `CallError`."""
        for error in _INPUT_ERRORS:
            if self.kind == error.__name__:
                return error(self.message)
        kind = "" if self.kind == CallError.__name__ else f"{self.kind}: "
        return CallError(self.boundary, f"{kind}{self.message}")


def unknown(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """A `ConfigError` for a name outside a table, with the nearest known name.

    >>> str(unknown("colour", "gren", ["blue", "green"]))
    "unknown colour 'gren'; nearest: 'green'; known: blue, green"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    hint = f"; nearest: {near[0]!r}" if near else ""
    return ConfigError(f"unknown {kind} {name!r}{hint}; known: {', '.join(names) or 'none'}")
