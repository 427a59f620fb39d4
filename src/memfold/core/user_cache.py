"""The folder for files that can be made again: converted models and the verdicts of judges."""

from __future__ import annotations

import os
from pathlib import Path

from memfold.core.errors import ConfigError

VARIABLE = "MEMFOLD_CACHE"


def user_cache() -> Path:
    """Return the folder that `MEMFOLD_CACHE` names, else `memfold` in `XDG_CACHE_HOME` or `~/.cache`; it may not exist.

    The rule is the same on all systems, as for the caches of Hugging Face and PyTorch.

    Raises:
        ConfigError: if the user has no home folder and no variable is set.
    """
    if own := os.environ.get(VARIABLE):
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(shared):  # the standard ignores relative paths
        return Path(shared) / "memfold"
    try:
        return Path.home() / ".cache" / "memfold"
    except RuntimeError:
        raise ConfigError(f"this user has no home folder for a cache; set {VARIABLE} to a folder") from None
