"""Checks the types of what Python users pass in; a wrong one is a `TypeError` that names the argument."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from memfold.core.config import require

PATH = "a path (str or Path)"


def check_type(name: str, value: object, kinds: type | tuple[type, ...], allowed: str) -> None:
    """Refuse a value of another type; a bool is no number.

    Raises:
        TypeError: with the name of the argument, what it must be, and the type of the value.
    """
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is int):
        raise TypeError(f"{name} must be {allowed}, not {type(value).__name__}")


def check_path(name: str, value: object) -> None:
    """Refuse what is no path.

    Raises:
        TypeError: as `check_type`.
    """
    check_type(name, value, (str, os.PathLike), PATH)


def check_positive(name: str, value: object) -> None:
    """Refuse what is no integer of 1 or more.

    Raises:
        ConfigError: for another integer.
        TypeError: as `check_type`.
    """
    check_type(name, value, int, "an integer")
    require(isinstance(value, int) and value > 0, name, value, "1 or more")


def check_callable(name: str, value: object) -> None:
    """Refuse what can neither be called nor is None.

    Raises:
        TypeError: as `check_type`.
    """
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a function or None, not {type(value).__name__}")


def strings(name: str, values: object) -> list[str]:
    """Return several strings as a list.  A single string is refused: it would be read letter by letter.

    Raises:
        TypeError: for anything but strings in a list or another iterable; the message has the index of the wrong one.
    """
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a list of strings, not {type(values).__name__}")
    listed = list(values)
    for number, value in enumerate(listed):
        check_type(f"{name}[{number}]", value, str, "a string")
    return listed
