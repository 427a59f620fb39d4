"""The commit of the checkout, which is read without a change to it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from memfold.backbone import origin


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the package in it, and one commit."""
    package = tmp_path / "src" / "memfold"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("one = 1\n")
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@velm")
    for words in (("init", "-q"), ("add", "."), (*who, "commit", "-qm", "one")):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)
    monkeypatch.setattr(origin, "memfold", SimpleNamespace(__file__=str(package / "__init__.py")))
    return tmp_path


def test_changes_are_told(checkout: Path) -> None:
    clean = origin.commit()
    assert clean is not None
    assert len(clean) == 40
    (checkout / "src" / "memfold" / "__init__.py").write_text("two = 2\n")
    assert origin.commit() == f"{clean}-dirty"


def test_the_index_is_not_written(checkout: Path) -> None:
    """A lock on it, left by another process or made for a moment, would stand in the way of the user's own git."""
    os.utime(checkout / "src" / "memfold" / "__init__.py", (1, 1))  # which git would note in the index
    index = checkout / ".git" / "index"
    before = index.read_bytes()
    assert str(origin.commit()).isalnum()
    assert index.read_bytes() == before
    (checkout / ".git" / "index.lock").touch()
    assert str(origin.commit()).isalnum()
