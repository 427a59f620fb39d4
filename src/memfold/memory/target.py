"""Whether a memory file may be written at a path: what is there may be replaced by a memory of the same documents only.

The same holds for the blocks of an interrupted fold.  What belongs to other documents is replaced by `force` alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from memfold.core.errors import DataError
from memfold.core.outputs import check_file, is_protected, kind_of, writing
from memfold.memory.lock import WriteLock
from memfold.memory.partial import interrupted, partial_folder
from memfold.memory.reader import read_manifest

SHOWN = 3


@contextmanager
def claimed(path: str | Path, inputs: Iterable[Path] = (), lock: WriteLock | None = None) -> Iterator[WriteLock]:
    """Hold the lock of a memory file that can be written; `lock` is one that the caller holds already.

    Raises:
        DataError: if the path is no place for a file, is one of the inputs, or is being written.
    """
    check_file(Path(path), inputs, replace=True)
    if lock is not None:
        yield lock
        return
    with WriteLock(path) as own:
        yield own


def check_target(path: str | Path, sha256: Sequence[str], *, grown: bool = False, force: bool = False) -> None:
    """Refuse to replace anything but a memory of the documents with these hashes.  Called with the lock held.

    `grown`: the file is the beginning of the new one, so that only the blocks of an interrupted fold are checked.

    Raises:
        DataError: with what would be lost.
    """
    path = Path(path)
    if force:
        return
    exists = kind_of(path) is not None
    if exists and not grown:
        _check_file(path, sha256)
    if exists and is_protected(path):
        raise DataError(f"{path} is protected from writing; choose another name, or give --force to replace it")
    with writing(path):
        left = interrupted(partial_folder(path))
    if left is not None and sorted(left.sha256) != sorted(sha256):
        raise DataError(
            f"{partial_folder(path)} holds an interrupted fold of other documents ({_names(left.sources)}); fold these "
            "again to finish it, choose another name, or give --force to discard it"
        )


def _check_file(path: Path, sha256: Sequence[str]) -> None:
    manifest = read_manifest(path)
    if manifest is None:
        raise DataError(
            f"{path} exists already and is not a memory file; choose another name, or give --force to replace it"
        )
    if sorted(manifest.sha256) != sorted(sha256):
        raise DataError(
            f"{path} is a memory of other documents ({_names(manifest.sources)}); choose another name, give --append "
            "to add to it, or --force to replace it"
        )


def _names(sources: Sequence[str]) -> str:
    more = f" and {len(sources) - SHOWN} more" if len(sources) > SHOWN else ""
    return f"{', '.join(sources[:SHOWN])}{more}"
