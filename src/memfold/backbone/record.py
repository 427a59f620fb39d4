"""What a model folder says of its model, read without its weights: a bad request is refused before they are loaded."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from memfold.backbone.resolve import CONFIG_FILE
from memfold.core.errors import CheckpointError

SETTINGS_FILE, SETTINGS_FORMAT = "memfold.json", 2
ROLES_FOLDER = "adapters"  # of a model folder, with one folder for each role
Quantisation = Literal["none", "nf4"]  # of the base model of an adapter


@dataclass
class FolderRecord:
    """The record of the model in a folder that memfold wrote."""

    name: str
    folder: Path
    trained: dict[str, Any]
    published: bool = False
    reads: tuple[str, ...] = ()  # fingerprints of separate encoders; empty: the model reads its own memories

    @property
    def has_weights(self) -> bool:
        """True: the folder has them."""
        return True

    @property
    def trained_here(self) -> bool:
        """Whether memfold trained the model for a system."""
        return bool(self.trained) and not self.published

    @property
    def window(self) -> int:
        """Unknown: the configuration of the model says it."""
        return sys.maxsize

    @property
    def answering(self) -> dict[str, Any]:
        """Empty: the settings that suit a model follow from its tokenizer too."""
        return {}

    @property
    def readable(self) -> tuple[str, ...]:
        """Fingerprints of the encoders whose slots the model reads."""
        return self.reads or (file_fingerprint(self.folder),)


def read_record(folder: Path, name: str) -> FolderRecord | None:
    """Return the record of a model; None if the folder is not one that memfold wrote, or holds an adapter.

    Raises:
        CheckpointError: if the record cannot be read.
    """
    if not (folder / SETTINGS_FILE).exists() or (folder / CONFIG_FILE).exists():
        return None
    settings = read_settings(folder)
    trained = settings.get("trained")
    if settings.get("format") != SETTINGS_FORMAT or not isinstance(trained, dict):
        return None  # loading says what is wrong
    return FolderRecord(name, folder, trained, bool(settings.get("published")), tuple(settings.get("reads", ())))


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the content of the file that memfold adds to a model folder.

    Raises:
        CheckpointError: if it cannot be read.
    """
    try:
        settings = json.loads((folder / SETTINGS_FILE).read_text())
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{folder} is damaged: {reason}") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{folder} is damaged: {SETTINGS_FILE} is not a JSON object")
    return settings


def file_fingerprint(folder: Path) -> str:
    """Return the SHA-256 of the configuration, the tokenizer and the weights in a model folder."""
    files = [*folder.glob("*.safetensors"), folder / "config.json", folder / "tokenizer.json"]
    files += folder.glob(f"{ROLES_FOLDER}/*/*.safetensors")
    states = ((path, path.stat()) for path in sorted(files))
    return _fingerprint(folder, tuple((path, state.st_size, state.st_mtime_ns) for path, state in states))


@lru_cache(maxsize=16)
def _fingerprint(folder: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    """Return the fingerprint of files in their state; it is computed once, because large files take seconds."""
    digest = hashlib.sha256()
    for path, _, _ in files:
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
