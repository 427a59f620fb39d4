"""Models that an installed Python package contains as a GGUF file.

The file is converted once, to a Hugging Face folder in the user's cache.  The name of the folder has the digest of the
file, so another version of the package is converted to another folder.  The weights are stored in bfloat16: that takes
half the space of float32, and the rounding error is far below that of the file.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memfold.core.errors import CheckpointError, DataError
from memfold.core.outputs import new_folder, writing
from memfold.core.user_cache import VARIABLE, user_cache

if TYPE_CHECKING:
    from memfold.backbone.formats.gguf import Progress

VERSION = 1  # of the conversion; with another one, all files are converted again
RECORD_FILE = "converted.json"  # the source of a converted folder, and the digests of its files
DIGITS = 12  # of the digest, in the name of a folder


@dataclass(frozen=True)
class PackagedModel:
    """A model in the GGUF file `file` of the Python package `module`, which the command `install` installs."""

    name: str
    title: str
    module: str
    file: str
    install: str

    def check(self) -> None:
        """Raise a `CheckpointError` if the package is not installed."""
        self._source()

    def folder(self) -> Path:
        """Return the folder of the converted model, which is converted if the cache has no intact one.

        Two processes do not convert the same file: the second one waits, then uses what the first one made.

        Raises:
            CheckpointError: if the package is not installed, its file is damaged, or the cache cannot be written.
        """
        source = self._source()
        digest = _digest(source)
        folder = user_cache() / f"{self.name}-{VERSION}-{digest[:DIGITS]}"
        if not _is_intact(folder):
            with _locked(folder):
                if not _is_intact(folder):
                    self._convert(source, digest, folder)
        return folder

    def _source(self) -> Path:
        """Return the path of the GGUF file; the package is not imported."""
        found = importlib.util.find_spec(self.module)
        for place in (found.submodule_search_locations or ()) if found else ():
            if (Path(place) / self.file).is_file():
                return Path(place) / self.file
        raise CheckpointError(f"model {self.name!r} is not installed; install it with: {self.install}")

    def _convert(self, source: Path, digest: str, folder: Path) -> None:
        """Convert the file into the folder; if this fails or is interrupted, there is no folder."""
        try:
            from memfold.backbone.formats.gguf import convert
        except ModuleNotFoundError as error:
            if error.name != "gguf":
                raise
            raise CheckpointError(f"model {self.name!r} needs the package gguf once: {self.install}") from None
        import torch

        for remains in (folder, *folder.parent.glob(f"{folder.name}.*.partial")):  # damaged, or of a killed process
            shutil.rmtree(remains, ignore_errors=True)
        try:
            with new_folder(folder) as partial, _progress(self.title, folder) as on_tensor:
                convert(source, partial, torch.bfloat16, on_tensor)
                _write_record(partial, {"package": self.module, "file": self.file, "sha256": digest})
        except DataError as error:
            raise _unwritable(error) from None
        except CheckpointError as error:
            raise CheckpointError(f"{error}; install it again: {self.install} --force-reinstall") from None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait for the lock of a folder, and hold it; the operating system releases the lock of a killed process."""
    from filelock import FileLock

    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        with writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
    except NotImplementedError:
        raise CheckpointError(
            f"the file system of {folder.parent} has no locks; set {VARIABLE} to a folder on a local disk"
        ) from None
    except DataError as error:
        raise _unwritable(error) from None
    try:
        yield
    finally:
        lock.release()


def _unwritable(error: DataError) -> CheckpointError:
    return CheckpointError(f"{error} ({VARIABLE} names the folder of the cache)")


def _write_record(folder: Path, source: dict[str, Any]) -> None:
    files = {path.name: _digest(path) for path in sorted(folder.iterdir())}
    (folder / RECORD_FILE).write_text(json.dumps({"source": source, "files": files}, indent=2) + "\n", encoding="utf-8")


def _is_intact(folder: Path) -> bool:
    """Return whether the files of a converted folder are those that were written."""
    try:
        files = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))["files"]
        return all(_digest(folder / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _progress(title: str, folder: Path) -> Iterator[Progress]:
    """Say on standard error what is converted, and show a bar if it is a terminal."""
    from rich.console import Console
    from rich.progress import Progress as Bars

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"converting {title} for its first use, to {folder}", markup=False)
    with Bars(console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("converting", total=None)
        yield lambda done, count: bars.update(task, completed=done, total=count)
