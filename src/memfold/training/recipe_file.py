"""Reads recipe files: TOML, with inheritance from another recipe.

    like = "baseline.toml"          # the recipe to inherit from, relative to this file
    settings = { window = 64 }      # tables are merged key by key, other values are replaced
    every = { bridges = [1, 1] }    # applied to each entry of the mixture

Recipes that differ in one thing, such as the rows of an ablation, state only that.  `recipe` documents the keys.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from memfold.core.errors import ConfigError

LIKE, EVERY, MIXTURE = "like", "every", "mixture"


def read_values(path: Path) -> dict[str, Any]:
    """Return the values of a recipe file, merged over those that it inherits.

    Raises:
        ConfigError: for a file that cannot be read, or files that inherit from each other in a cycle.
    """
    values = _merged(path, ())
    every, mixture = values.pop(EVERY, {}), values.get(MIXTURE, [])
    if not isinstance(every, dict) or not isinstance(mixture, list) or (every and not mixture):
        raise ConfigError(f"{path}: {EVERY} = {every!r} must be a table of keys for the entries of a mixture")
    if every:
        values[MIXTURE] = [_over(entry, every) for entry in mixture]
    return values


def _merged(path: Path, heirs: tuple[Path, ...]) -> dict[str, Any]:
    """Return the values of a file over those that it inherits; `heirs` are the files that inherit from it."""
    path = path.resolve() if heirs else path
    if path.resolve() in heirs:
        raise ConfigError(f"{path} inherits from itself through {heirs[-1]}; remove one {LIKE!r}")
    values = _read(path)
    like = values.pop(LIKE, None)
    if like is None:
        return values
    if not isinstance(like, str):
        raise ConfigError(f"{path}: {LIKE} = {like!r} must be the path of a recipe, relative to this file's folder")
    return _over(_merged(path.parent / like, (*heirs, path.resolve())), values)


def _over(values: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """Return `others` merged over `values`, tables key by key."""
    merged = dict(values)
    for key, value in others.items():
        old = merged.get(key)
        merged[key] = _over(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no recipe at {path}; the shipped ones are in recipes/") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; give a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from error
