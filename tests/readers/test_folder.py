"""The files of a folder in order, and a reason for everything else."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from memfold.readers.folder import files_in


def listed(folder: Path) -> tuple[list[str], dict[str, str]]:
    listing = files_in(folder)
    left_out = {path.relative_to(folder).as_posix(): reason for path, reason in listing.left_out}
    assert len(left_out) == len(listing.left_out)
    return [file.relative_to(folder).as_posix() for file in listing.files], left_out


def test_files_are_sorted_and_everything_else_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.txt", "a/z.txt", "a/b/c", "a.txt", ".git/config", ".env", "m.fold.partial/lock", "x.1.partial"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty" / "in it").mkdir(parents=True)
    (tmp_path / "a" / "up").symlink_to("..", target_is_directory=True)
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "lost").symlink_to("nowhere")
    (tmp_path / "link.txt").symlink_to("b.txt")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
    (tmp_path / "null").symlink_to("/dev/null")
    files, left_out = listed(tmp_path)
    assert files == ["a/b/c", "a/z.txt", "a.txt", "b.txt", "link.txt"]
    assert left_out == {
        ".env": "is hidden; name it to read it",
        ".git": "is hidden; name it to read it",
        "a/up": "is a link to a folder; name it to read it",
        "lost": "is a link to a missing file",
        "m.fold.partial": "is unfinished",
        "null": "is a device",
        "pipe": "is a named pipe; name it to read it",
        "self": "cannot be read: Too many levels of symbolic links",
        "socket": "is a socket",
        "x.1.partial": "is unfinished",
    }


def test_a_hidden_folder_that_is_named_is_read(tmp_path: Path) -> None:
    (tmp_path / ".notes").mkdir()
    (tmp_path / ".notes" / "a.txt").touch()
    assert listed(tmp_path / ".notes") == (["a.txt"], {})


def test_a_subfolder_that_cannot_be_read_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("closed", "open"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").touch()
    plain = Path.iterdir

    def refusing(self: Path) -> Iterator[Path]:
        if self.name == "closed":  # as for a user without rights; tests may run with all of them
            raise PermissionError(13, "Permission denied")
        return plain(self)

    monkeypatch.setattr(Path, "iterdir", refusing)
    assert listed(tmp_path) == (["open/a.txt"], {"closed": "cannot be read: Permission denied"})


def test_a_name_may_have_any_bytes(tmp_path: Path) -> None:
    for name in (b"a\n.txt", b"\xe9.txt", b" ", b"'\"$"):
        with open(os.fsencode(tmp_path) + b"/" + name, "wb"):
            pass
    assert listed(tmp_path) == ([" ", "'\"$", "a\n.txt", os.fsdecode(b"\xe9.txt")], {})


def test_a_folder_may_be_very_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(60):
        os.mkdir("d" * 100)
        os.chdir("d" * 100)
    files, left_out = listed(tmp_path)
    assert files == []
    assert set(left_out.values()) == {"cannot be read: File name too long"}
    os.chdir(tmp_path)
