"""Typed configuration: builds frozen dataclasses from mappings, such as parsed TOML or JSON, and checks keys and types.

Each dataclass checks the ranges of its values in `__post_init__`, with `require`.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from memfold.core.errors import ConfigError, unknown

T = TypeVar("T")
KINDS = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


def build(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build a dataclass from a mapping, including nested dataclasses, lists and tuples of them, and optional fields.

    Raises:
        ConfigError: for an unknown key or name (the message has the nearest known one), a missing key, or a value that
            is not possible (the message says what is allowed); it gives the path of the key, prefixed with `where`.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise unknown("key", key, fields, where)
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigError(f"{_join(where, name)} is missing; it has no default")
    converted = {key: _convert(hints[key], value, _join(where, key)) for key, value in values.items()}
    try:
        return cls(**converted)
    except ConfigError as error:  # of the checks of the dataclass, which does not know its path
        raise ConfigError(_located(str(error), fields, where)) from None


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raise a `ConfigError` that gives a setting's name, value and allowed values, unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{name} = {value!r} is not possible; allowed: {allowed}")


def require_known(kind: str, name: object, known: Iterable[str]) -> None:
    """Raise the `ConfigError` of an unknown name, unless `name` is a known one."""
    names = tuple(known)
    if name not in names:
        raise unknown(kind, name, names)


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _located(message: str, fields: Iterable[str], where: str) -> str:
    """Return a message about a dataclass with its path: before the name of a field, or before the whole message."""
    if not where:
        return message
    first, space, rest = message.partition(" ")
    if first == "unknown" and rest.partition(" ")[0] in fields:
        return f"{first}{space}{where}.{rest}"
    key = first.rstrip(":").partition(".")[0].partition("[")[0]
    return f"{where}.{message}" if key in fields else f"{where}: {message}"


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(argument for argument in arguments if argument is not type(None)), value, where)
    if origin is typing.Literal:
        require_known(where, value, arguments)
        return value
    if dataclasses.is_dataclass(hint):
        require(isinstance(value, Mapping), where, value, "a table")
        return build(typing.cast(type, hint), value, where)
    if origin in (tuple, list):
        is_pair = origin is tuple and len(arguments) == 2 and arguments[1] is not Ellipsis
        allowed = "a list of two values" if is_pair else "a list"
        require(isinstance(value, list | tuple) and (not is_pair or len(value) == 2), where, value, allowed)
        hints = arguments if is_pair else (arguments[0],) * len(value)
        items = zip(hints, value, strict=True)
        return origin(_convert(kind, item, f"{where}[{index}]") for index, (kind, item) in enumerate(items))
    if origin is dict:
        require(isinstance(value, Mapping), where, value, "a table")
        return {key: _convert(arguments[1], item, _join(where, key)) for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        require(abs(value) <= sys.float_info.max, where, value, KINDS[float])
        return float(value)
    is_right = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    require(is_right, where, value, KINDS.get(hint, hint.__name__))
    return value
