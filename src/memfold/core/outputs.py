"""Where a command may write.  Nothing that exists is replaced unless the command continues it or is told to (`force`).

A file that the command reads is never replaced, under whatever name it is given.  All checks are made before anything
is computed.  Memory files have a check of their own, `memfold.memory.target`, which begins with this one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from memfold.core.errors import DataError

FORCE, ANOTHER = "choose another name, or give --force to replace it", "choose another folder"
FILE, FOLDER, LOST_LINK = "file", "folder", "link to a missing file"
KINDS = ((stat.S_ISREG, FILE), (stat.S_ISDIR, FOLDER), (stat.S_ISFIFO, "named pipe"), (stat.S_ISSOCK, "socket"))
_WRITE_ERROR = re.compile(r"\bos error \d+|PytorchStreamWriter failed|unexpected pos \d+ vs \d+")
_ERROR_NUMBER = re.compile(r"\bos error (\d+)")
UNKNOWN = "the system took a part of it only; free some space or choose another place"
FULL = (errno.ENOSPC, errno.EDQUOT)
WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def kind_of(path: Path) -> str | None:
    """What is at a path, links followed; None where nothing is.

    Raises:
        DataError: if this cannot be known.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return LOST_LINK if path.is_symlink() else None
    except OSError as error:
        raise DataError(f"cannot write {path}: {reason(error)}") from None
    return next((name for test, name in KINDS if test(mode)), "device")


def check_file(
    path: Path,
    inputs: Iterable[Path] = (),
    *,
    replace: bool = False,
    force: bool = False,
    advice: str = FORCE,
) -> None:
    """Refuse a file that cannot be written, is one of the inputs, or exists.

    It may exist if the command continues it (`replace`) or the user says so (`force`).  `advice` ends the message about
    a file that exists.

    Raises:
        DataError: with what is at the path, and what to do.
    """
    kind = kind_of(path)
    if kind is None:
        _check_parent(path)
    elif kind != FILE:
        raise DataError(f"cannot write {path}: it is a {kind}; choose another name")
    elif is_input(path, inputs):
        raise DataError(f"{path} is one of the inputs, which are never replaced; choose another name")
    elif not (replace or force):
        raise DataError(f"{path} exists already; {advice}")


def check_files(
    folder: Path,
    names: Iterable[str],
    inputs: Iterable[Path] = (),
    *,
    replace: bool = False,
    force: bool = False,
    advice: str = FORCE,
) -> None:
    """Refuse a folder that cannot be written, or one in which a file of these names may not be.

    Raises:
        DataError: as `check_file`.
    """
    check_folder(folder)
    if folder.exists():
        for name in names:
            check_file(folder / name, inputs, replace=replace, force=force, advice=advice)


def check_folder(folder: Path) -> None:
    """Refuse a folder that can neither be written to nor made.

    Raises:
        DataError: with what is in the way.
    """
    kind = kind_of(folder)
    if kind not in (None, FOLDER):
        raise DataError(f"cannot make the folder {folder}: it is a {kind}; choose another folder")
    nearest = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not nearest.is_dir():
        raise DataError(f"cannot write to {folder}: {nearest} is not a folder; choose another folder")
    with writing(folder), tempfile.TemporaryFile(dir=nearest):  # rights alone do not tell
        pass


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder beside a new one, to be renamed to it at the end; if something fails, nothing of it is left.

    Raises:
        DataError: if the folder exists and is not empty, or if it cannot be written.
    """
    check_empty(folder)
    target = Path(os.path.realpath(folder))
    with writing(folder):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{target.name}.", suffix=".partial", dir=target.parent))
        try:
            yield partial
            partial.chmod(0o777 & ~_umask())
            if target.is_dir():
                target.rmdir()  # empty, or this fails
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def check_empty(folder: Path) -> None:
    """Refuse a folder that cannot be made, or that exists and is not empty.

    Raises:
        DataError: with what is there.
    """
    check_folder(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder} exists and is not an empty folder; name a new one")


def is_input(path: Path, inputs: Iterable[Path]) -> bool:
    """Whether an existing file is one of these under any name, such as a link or a relative path."""
    for given in inputs:
        with contextlib.suppress(OSError):
            if os.path.samefile(path, given):
                return True
    return False


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path beside a file, which is renamed to it at the end: the file is written whole, or left as it is.

    Raises:
        DataError: if it cannot be written.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    with writing(path):
        try:
            yield partial
            copy_rights(target, partial)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)


def copy_rights(old: Path, new: Path) -> None:
    """Give a file the rights of the one that it is about to replace, if there is one: what is private stays private."""
    with contextlib.suppress(FileNotFoundError):
        new.chmod(stat.S_IMODE(old.stat().st_mode))


def is_protected(path: Path) -> bool:
    """Whether nobody, or not this user, may write to an existing file.  Its folder may allow to replace it even so."""
    return not path.stat().st_mode & WRITABLE or not os.access(path, os.W_OK)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file, or leave what is there.

    Raises:
        DataError: if it cannot be written.
    """
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failed write into a `DataError` that names the path and says what to do.

    The libraries that write weights raise errors of their own, which hold the system's error as text.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot write {path}: {reason(error)}") from error
    except Exception as error:
        if not _WRITE_ERROR.search(str(error)):
            raise
        number = _ERROR_NUMBER.search(str(error))
        known = reason(OSError(int(number[1]), os.strerror(int(number[1])))) if number else UNKNOWN
        raise DataError(f"cannot write {path}: {known}") from error


def reason(error: OSError) -> str:
    """What the system said, and what to do about it."""
    advice = "free some space and try again" if error.errno in FULL else "choose another place"
    return f"{error.strerror or error}; {advice}"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _check_parent(path: Path) -> None:
    parent = path.parent
    if not parent.is_dir():
        raise DataError(f"cannot write {path}: there is no folder {parent}; choose another place")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise DataError(f"cannot write {path}: the folder {parent} cannot be written to; choose another place")
