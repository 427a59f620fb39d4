"""Lists the files of a folder and its subfolders, and says what it leaves out and why.

Nothing is opened, so nothing is waited for.  Links to folders are not followed: they can lead round in a circle, or out
of the folder.  Hidden are names that begin with a dot.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import Path

from memfold.readers.files import SPECIAL

HIDDEN = "is hidden; name it to read it"
UNFINISHED = ".partial"  # what memfold calls a file or folder until it is complete
# what can be in a folder beside files and folders
KINDS = ((stat.S_ISFIFO, "is a named pipe; name it to read it"), *SPECIAL)


@dataclass(frozen=True)
class Listing:
    """The files of a folder, sorted by name, and what else is in it with the reason why it is left out."""

    files: list[Path] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)


def files_in(folder: Path) -> Listing:
    """Return the files of a folder and of its subfolders."""
    listing, waiting = Listing(), [folder]
    while waiting:
        path = waiting.pop()
        try:
            mode = path.stat().st_mode
            reason = "" if path == folder else _reason(path, mode)
            inside = sorted(path.iterdir(), reverse=True) if stat.S_ISDIR(mode) and not reason else []
        except FileNotFoundError:
            reason, inside = "is a link to a missing file" if path.is_symlink() else "does not exist", []
        except OSError as error:
            reason, inside = f"cannot be read: {error.strerror}", []
        if reason:
            listing.left_out.append((path, reason))
        elif stat.S_ISREG(mode):
            listing.files.append(path)
        waiting += inside
    return listing


def _reason(path: Path, mode: int) -> str:
    """Return why a path is left out; empty if it is not."""
    if path.name.startswith("."):
        return HIDDEN
    if path.suffix == UNFINISHED:
        return "is unfinished"
    if stat.S_ISDIR(mode) and path.is_symlink():
        return "is a link to a folder; name it to read it"
    return next((what for test, what in KINDS if test(mode)), "")
