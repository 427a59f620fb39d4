"""The values of a recipe file: TOML, over those of another file that it names as its likeness.

    like = "baseline.toml"          # beside this file; what is not said here is as there
    settings = { window = 64 }      # tables are joined key by key, anything else is replaced
    every = { bridges = [1, 1] }    # said of each entry of the mixture

So recipes that differ in one thing, as the rows of an ablation, say that one thing.  What the keys mean is in `recipe`.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from memfold.core.errors import ConfigError

LIKE, EVERY, MIXTURE = "like", "every", "mixture"


def read_values(path: Path) -> dict[str, Any]:
    """The values of a recipe file, with those of its likeness.

    Raises:
        ConfigError: for a file that cannot be read, or files that are like each other in a circle.
    """
    values = _joined(path, ())
    every, mixture = values.pop(EVERY, {}), values.get(MIXTURE, [])
    if not isinstance(every, dict) or not isinstance(mixture, list) or (every and not mixture):
        raise ConfigError(f"{path}: {EVERY} = {every!r} must be a table of keys for the entries of a mixture")
    if every:
        values[MIXTURE] = [entry | every for entry in mixture]
    return values


def _joined(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """The values of a file over those of its likeness; `above` are the files that lead here."""
    path = path.resolve() if above else path
    if path.resolve() in above:
        raise ConfigError(f"{path} is like itself, by way of {above[-1]}; take one {LIKE!r} out")
    values = _read(path)
    like = values.pop(LIKE, None)
    if like is None:
        return values
    if not isinstance(like, str):
        raise ConfigError(f"{path}: {LIKE} = {like!r} must be the path of a recipe, from this file's folder")
    return _over(_joined(path.parent / like, (*above, path.resolve())), values)


def _over(values: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """`others` over `values`, tables key by key."""
    joined = dict(values)
    for key, value in others.items():
        old = joined.get(key)
        joined[key] = _over(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return joined


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no recipe at {path}; the shipped ones are in recipes/") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; give a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from error
