from __future__ import annotations

from pathlib import Path

import pytest

from memfold.core.errors import ConfigError
from memfold.core.user_cache import user_cache


def test_the_first_variable_that_is_set_names_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for name in ("MEMFOLD_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert user_cache() == tmp_path / ".cache" / "memfold"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert user_cache() == tmp_path / ".cache" / "memfold"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert user_cache() == tmp_path / "xdg" / "memfold"
    monkeypatch.setenv("MEMFOLD_CACHE", str(tmp_path / "own"))
    assert user_cache() == tmp_path / "own"


def test_a_user_without_home_folder_is_told_which_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("MEMFOLD_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", none)
    with pytest.raises(ConfigError, match="no home folder for a cache; set MEMFOLD_CACHE to a folder"):
        user_cache()
