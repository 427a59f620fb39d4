"""One writer for each memory file: a lock that the operating system takes back when its process ends.

The locked file is in the folder `<path>.partial`, where a fold keeps its blocks.  It is removed with the lock, so the
lock counts only while the locked file is the one at that path.  Readers take no lock: they see the old file or the new
one.  File systems without locks cannot hold a memory file that is being written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import BinaryIO

from memfold.core.errors import DataError
from memfold.core.outputs import writing
from memfold.memory.partial import LOCK, discard_empty, partial_folder, refuse_foreign

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
UNLOCKABLE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
ATTEMPTS = 100


class WriteLock:
    """The right to write one memory file, from the beginning of the `with` block, or `WriteLock(path)`, to `release`.

    Raises:
        DataError: if another process, or another writer of this one, has it; nothing is waited for.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.folder = partial_folder(self.path)
        if not self.path.parent.is_dir():
            raise DataError(f"cannot write {self.path}: not a file in an existing folder; choose another place")
        with writing(self.path):
            refuse_foreign(self.folder)
            self._file: BinaryIO | None = self._take()

    @property
    def is_held(self) -> bool:
        """Whether nobody else can have the lock: it was not released, and nobody removed its file."""
        return self._file is not None and _is_at(self._file, self.folder / LOCK)

    def release(self) -> None:
        """Let others write, and remove the folder if it holds no block."""
        file, self._file = self._file, None
        if file is None:
            return
        own = _is_at(file, self.folder / LOCK)
        with contextlib.suppress(OSError):
            if own:
                discard_empty(self.folder)
        if sys.platform == "win32":  # an open file cannot be removed there
            file.close()
        with contextlib.suppress(OSError):
            if own:  # before it is unlocked: afterwards it can be that of the next writer
                (self.folder / LOCK).unlink(missing_ok=True)
                self.folder.rmdir()
        if not file.closed:
            _unlock(file)
            file.close()

    def __enter__(self) -> WriteLock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def _take(self) -> BinaryIO:
        """Lock the file; again if the last writer removes it, or the folder, at that moment."""
        failure: OSError | None = None
        for _ in range(ATTEMPTS):
            try:
                self.folder.mkdir(exist_ok=True)
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
        raise DataError(f"another process is writing {self.path}; wait for it or choose another name")

    def _locked(self, file: BinaryIO) -> bool:
        try:
            _lock(file)
        except OSError as error:
            if error.errno in BUSY:
                return False
            file.close()
            if error.errno in UNLOCKABLE:
                raise DataError(
                    f"cannot lock {self.path}: its file system has no locks; choose a path on a local disk"
                ) from None
            raise
        return True


def _lock(file: BinaryIO) -> None:
    """Lock a file, or raise an `OSError` at once."""
    if sys.platform == "win32":
        file.seek(0)
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
