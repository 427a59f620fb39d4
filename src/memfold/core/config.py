"""Typed configuration: builds frozen dataclasses from mappings, such as parsed TOML or JSON, and checks keys and types.

Each dataclass checks the ranges of its values in `__post_init__`, with `require`.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from memfold.core.errors import ConfigError, unknown

T = TypeVar("T")


def build(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build a dataclass from a mapping, including nested dataclasses, lists and tuples of them, and optional fields.

    Raises:
        ConfigError: for an unknown key (the message names the nearest known one), a missing key, or a value of the
            wrong type; the message gives the path of the key, prefixed with `where`.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise unknown("key", _join(where, key), [_join(where, name) for name in fields])
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigError(f"{_join(where, name)} is missing; it has no default")
    return cls(**{key: _convert(hints[key], value, _join(where, key)) for key, value in values.items()})


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raise a `ConfigError` that gives a setting's name, value and allowed values, unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{name} = {value!r} is not possible; allowed: {allowed}")


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(argument for argument in arguments if argument is not type(None)), value, where)
    if origin is typing.Literal:
        require(value in arguments, where, value, ", ".join(map(repr, arguments)))
        return value
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} = {value!r} must be a table")
        return build(typing.cast(type, hint), value, where)
    if origin in (tuple, list):
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} = {value!r} must be a list")
        is_pair = origin is tuple and len(arguments) == 2 and arguments[1] is not Ellipsis
        if is_pair and len(value) != 2:
            raise ConfigError(f"{where} = {value!r} must have two values")
        hints = arguments if is_pair else (arguments[0],) * len(value)
        items = zip(hints, value, strict=True)
        return origin(_convert(kind, item, f"{where}[{index}]") for index, (kind, item) in enumerate(items))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} = {value!r} must be a table")
        return {key: _convert(arguments[1], item, _join(where, key)) for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{where} = {value!r} must be {hint.__name__}, not {type(value).__name__}")
    return value
