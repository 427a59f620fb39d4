"""The few kinds of error that somebody acts on differently.

Every error raised on purpose is a `MemfoldError` whose message is one line: the value, the allowed range, what to do.
The command line prints that line and exits with `exit_code`.  A failing sample becomes data on its own trace instead
(`CallError`, raised and caught by the driver).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
        self.boundary = boundary


def unknown(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """A `ConfigError` for a name outside a table, with the nearest known name.

    >>> str(unknown("system", "poold", ["full", "pooled"]))
    "unknown system 'poold'; nearest: 'pooled'; known: full, pooled"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    hint = f"; nearest: {near[0]!r}" if near else ""
    return ConfigError(f"unknown {kind} {name!r}{hint}; known: {', '.join(names) or 'none'}")
