"""One writer for each folder: a lock that the operating system takes back when its process ends.

The locked file is in the folder and is removed with the lock, so the lock counts only while the locked file is the one
at that path.  A killed process leaves the file behind, but not the lock.  Readers take no lock.  File systems without
locks cannot hold a folder that is being written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, ClassVar, Self

from memfold.core.errors import BusyError, DataError
from memfold.core.outputs import check_folder, writing

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = "lock"
BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
UNLOCKABLE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
ATTEMPTS = 100
FAR = 1 << 30  # a byte that no file reaches: Windows lets nobody read what is locked


class FolderLock:
    """The right to write into a folder, from `FolderLock(folder)` to `release` or the end of the `with` block.

    The folder is made with its parents; of these, what is empty is removed with the lock.

    Raises:
        BusyError: if another process, or another writer of this one, has it; nothing is waited for.
    """

    makes_parents: ClassVar[bool] = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
        self._file: BinaryIO | None = None
        self._check()
        with writing(self._subject):
            self._file = self._take()

    @property
    def is_held(self) -> bool:
        """Whether nobody else can have the lock: it was not released, and nobody removed its file."""
        return self._file is not None and _is_at(self._file, self.folder / LOCK)

    def release(self) -> None:
        """Let others write."""
        file, self._file = self._file, None
        if file is None:
            return
        own = _is_at(file, self.folder / LOCK)
        with contextlib.suppress(OSError):
            if own:
                self._discard()
        if sys.platform == "win32":  # an open file cannot be removed there
            file.close()
        with contextlib.suppress(OSError):
            if own:  # before it is unlocked: afterwards it can be that of the next writer
                (self.folder / LOCK).unlink(missing_ok=True)
                for place in self._made:
                    place.rmdir()
        if not file.closed:
            _unlock(file)
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    # what a folder of another kind changes

    @property
    def _subject(self) -> Path:
        """What messages say is written."""
        return self.folder

    @property
    def _another(self) -> str:
        """What can be written instead."""
        return "folder"

    def _check(self) -> None:
        """Refuse a folder that cannot be written to, before anything is made."""
        check_folder(self.folder)

    def _discard(self) -> None:
        """Remove from the folder what is of no use without the lock."""

    def _take(self) -> BinaryIO:
        """Lock the file; again if the last writer removes it, or the folder, at that moment."""
        failure: OSError | None = None
        for _ in range(ATTEMPTS):
            try:
                self.folder.mkdir(parents=self.makes_parents, exist_ok=True)
                file = (self.folder / LOCK).open("ab")
            except (FileNotFoundError, FileExistsError) as error:
                if os.path.lexists(self.folder) and not self.folder.is_dir():
                    raise
                failure = error
                continue
            failure = None
            if not self._locked(file):
                file.close()
                break
            if _is_at(file, self.folder / LOCK):
                return file
            file.close()
        if failure is not None:
            raise failure
        raise BusyError(f"another process is writing {self._subject}; wait for it or choose another {self._another}")

    def _locked(self, file: BinaryIO) -> bool:
        try:
            _lock(file)
        except OSError as error:
            if error.errno in BUSY:
                return False
            file.close()
            if error.errno in UNLOCKABLE:
                raise DataError(
                    f"cannot lock {self._subject}: its file system has no locks; choose a path on a local disk"
                ) from None
            raise
        return True


@contextlib.contextmanager
def locked(folder: Path, lock: FolderLock | None = None) -> Iterator[FolderLock]:
    """Hold the lock of a folder; `lock` is one that the caller holds already.

    Raises:
        DataError: as `FolderLock`.
    """
    if lock is not None:
        yield lock
        return
    with FolderLock(folder) as own:
        yield own


def lock_open(file: BinaryIO, path: Path) -> None:
    """Lock an open file until it is closed; others can still read it.

    Raises:
        DataError: if another process, or another writer of this one, has it; nothing is waited for.
    """
    try:
        _lock(file, FAR)
    except OSError as error:
        if error.errno in BUSY:
            raise DataError(f"another process is writing {path}; wait for it or choose another name") from None
        if error.errno not in UNLOCKABLE:  # a file that is only added to is of use without a lock, too
            raise


def _lock(file: BinaryIO, at: int = 0) -> None:
    """Lock a file, on Windows its byte number `at`, or raise an `OSError` at once."""
    if sys.platform == "win32":
        file.seek(at)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _unlock(file: BinaryIO) -> None:
    """Unlock a file at once, although a child process may have inherited it."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False
