"""Turns user input (files, folders, pipes, a list of these, or texts) into documents, and recognises memory files.

The rule: what is named must be readable, or nothing is folded; what is found in a folder and cannot be read is skipped
and listed.  Each text is folded once.  Different files have different names: their paths from the folder that all named
paths have in common.  Reading and checking the content of a file is in `memfold.readers`.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Protocol

from memfold.core.arguments import check_path, check_type, strings
from memfold.core.document import Document
from memfold.core.errors import DataError, DocumentError
from memfold.readers.files import READABLE, is_memory_head, is_pipe, open_document, read_stream, shown_name
from memfold.readers.folder import HIDDEN, Listing, files_in

Source = str | Path | Sequence[str | Path]
Texts = Sequence[str] | Mapping[str, str]
STDIN = "-"  # where standard input is given
MEMORY_SUFFIX = ".fold"
LONGEST_PATH = 250  # characters; a longer string is text
SHOWN = 3  # reasons in an error message or a warning
_FILE_NAME = re.compile(r"\.[A-Za-z]\w{0,9}$")


class Known(Protocol):
    """A memory, or what a memory file says of itself: the names of its documents and the hashes of their texts."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of the documents."""

    @property
    def sha256(self) -> tuple[str, ...]:
        """The SHA-256 hashes of their texts, in hex."""


@dataclass(frozen=True)
class Skipped:
    """A file or folder that is not folded.

    `reason` is the predicate of a sentence about it, such as `is empty`.  `same_as` is the name of the document that
    has its text, if one has.
    """

    source: str
    reason: str
    same_as: str | None = None

    def __str__(self) -> str:
        return f"{self.source} {self.reason}"


@dataclass(frozen=True)
class Inputs:
    """The documents to fold, and what was skipped; `searched` says whether a folder was named."""

    documents: list[Document]
    skipped: tuple[Skipped, ...] = ()
    searched: bool = False


@dataclass(frozen=True)
class Listed:
    """A file that was found and not read: its `path`, the path from the folder that all named paths have in common
    (`relative`), and the name of its document."""

    path: Path
    relative: Path
    source: str


def given_inputs(source: Source | None, texts: Texts | None, memory: Known | None = None) -> Inputs:
    """Return the distinct documents of the one argument that is given, without those that a memory holds.

    A string is taken as text if it contains a line break, is longer than a path, or contains a space but is neither an
    existing path nor ends like the name of a file.  A warning tells of files that could not be read.

    Raises:
        DataError: for a named path that is missing, empty, binary or in a format that cannot be read, or a text that is
            blank.
        TypeError: for anything but a path, a list of paths, or texts.
    """
    if (source is None) == (texts is None):
        raise TypeError(
            "source must be a path, a list of paths, or a text, unless texts are given; give one of the two"
        )
    if texts is not None:
        inputs = Inputs(_named_texts(texts, 1 if memory is None else len(memory.sources) + 1))
    elif isinstance(source, str) and _is_text(source):
        inputs = Inputs([_named("the text", "text", source)])
    else:
        inputs = gather([source] if isinstance(source, str | os.PathLike) else _paths(source))
    inputs = distinct(inputs, memory)
    lost = [each for each in inputs.skipped if each.same_as is None and each.reason != HIDDEN]
    if lost:
        warnings.warn(f"not folded: {_some(lost)}; the attribute skipped lists all", stacklevel=3)
    return inputs


def gather(paths: Iterable[str | Path], stdin: BinaryIO | None = None) -> Inputs:
    """Open files, and the files of folders, in the order in which they are named; `-` is standard input if it is given.

    Raises:
        DataError: for a named file that cannot be read, or a folder without a single file that can be read.
    """
    named = _named_paths(paths)
    folder = _common_folder([path for path in named if not is_pipe(path) and (stdin is None or str(path) != STDIN)])
    opened: dict[str, Document] = {}
    skipped: dict[str, Skipped] = {}
    repeated: list[Skipped] = []
    searched = False
    for path in named:
        key = STDIN if stdin is not None and str(path) == STDIN else os.path.abspath(path)
        if os.path.isdir(path) and key != STDIN:
            searched = True
            _open_folder(path, folder, opened, skipped)
        elif key in opened:
            repeated.append(Skipped(opened[key].source, "is named twice", opened[key].source))
        elif key == STDIN and stdin is not None:
            opened[key] = read_stream(stdin, "standard input", "stdin")
        else:
            opened[key] = open_document(path, shown_name(path) if is_pipe(path) else _name(path, folder))
    left_out = [each for path, each in skipped.items() if path not in opened]
    return Inputs(list(opened.values()), (*left_out, *repeated), searched)


def list_files(paths: Iterable[str | Path]) -> tuple[list[Listed], list[Skipped]]:
    """List files, and the files of folders, each once and without reading them, and what is skipped in folders.

    Raises:
        DataError: for a named path that is neither a file nor a folder.
    """
    named = _named_paths(paths)
    folder = _common_folder(named)
    found: dict[str, Listed] = {}
    skipped: dict[str, Skipped] = {}
    for path in named:
        if is_pipe(path):
            raise DocumentError(path, "is a pipe, and no memory file can be named after it; give a file")
        if not (os.path.isfile(path) or os.path.isdir(path)):
            open_document(path)  # raises, and says what is there
        listing = files_in(path) if os.path.isdir(path) else Listing([path])
        for left_out, reason in listing.left_out:
            skipped[os.path.abspath(left_out)] = Skipped(_name(left_out, folder), reason)
        for file in listing.files:
            whole = os.path.abspath(file)
            relative = os.path.relpath(whole, folder or Path(whole).anchor)
            found[whole] = Listed(Path(whole), Path(relative), _name(file, folder))
    return list(found.values()), [each for whole, each in skipped.items() if whole not in found]


def distinct(inputs: Inputs, memory: Known | None = None, where: str = "the memory") -> Inputs:
    """Return inputs with each text once, without the texts of a memory, and with a different name for each document."""
    held = dict(zip(memory.sha256, memory.sources, strict=True)) if memory is not None else {}
    taken = set(memory.sources) if memory is not None else set()
    first: dict[str, str] = {}
    documents, skipped = [], list(inputs.skipped)
    for document in inputs.documents:
        sha256, name = document.sha256(), document.source
        if sha256 in held:
            skipped.append(Skipped(name, f"has the same text as {held[sha256]} in {where}", held[sha256]))
        elif sha256 in first:
            skipped.append(Skipped(name, f"has the same text as {first[sha256]}", first[sha256]))
        else:
            name = next(candidate for candidate in _names(document) if candidate not in taken)
            taken.add(name)
            first[sha256] = name
            documents.append(document if name == document.source else document.renamed(name))
    return replace(inputs, documents=documents, skipped=tuple(skipped))


def is_memory(path: Path) -> bool:
    """Return whether a path is a memory file, judging by its suffix and first bytes."""
    if path.suffix.lower() == MEMORY_SUFFIX:
        return True
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return is_memory_head(file.read(9))
    except OSError:  # reading it as a document says why
        return False


def _open_folder(path: Path, folder: str, opened: dict[str, Document], skipped: dict[str, Skipped]) -> None:
    """Open the files of a folder; what cannot be read is skipped.

    Raises:
        DataError: if there is no file that can be read.
    """
    listing = files_in(path)
    if not listing.files and listing.left_out[:1] and listing.left_out[0][0] == path:
        raise DocumentError(path, f"{listing.left_out[0][1]}; give a folder that can be read")
    left_out, found = list(listing.left_out), False
    for file in listing.files:
        key = os.path.abspath(file)
        try:
            if key not in opened:
                opened[key] = open_document(file, _name(file, folder))
            found = True
        except DocumentError as error:
            left_out.append((file, error.reason))
    lost = {os.path.abspath(file): Skipped(_name(file, folder), reason) for file, reason in left_out}
    skipped.update(lost)
    if not found:
        why = f" ({_some(list(lost.values()))})" if lost else ", it is empty"
        raise DataError(f"the folder {path} holds no file that can be read{why}; name one with {READABLE} files")


def _named_texts(texts: Texts, first: int) -> list[Document]:
    """Return texts as documents: those of a mapping under its keys, those of a list as `text 1`, `text 2`, and so on.

    `first` is the number of the first text of a list.
    """
    if isinstance(texts, Mapping):
        named = dict(zip(strings("names of texts", list(texts)), strings("texts", list(texts.values())), strict=True))
    else:
        named = {f"text {number}": text for number, text in enumerate(strings("texts", texts), first)}
    if not named:
        raise DataError("no texts; give at least one")
    if "" in named:
        raise DataError("the name of a text is empty; give it a name, which citations show")
    return [_named(name, name, text) for name, text in named.items()]


def _named(title: str, name: str, text: str) -> Document:
    if not text.strip():
        raise DataError(f"{title} is empty; a document needs at least one character that is not a space")
    return Document(name, text=text)


def _paths(source: Source | None) -> Sequence[str | Path]:
    """Return a list of paths after checking that it is one."""
    check_type("source", source, (list, tuple), "a path (str or Path), a list of paths, or a text")
    assert isinstance(source, list | tuple)
    for number, path in enumerate(source):
        check_path(f"source[{number}]", path)
        if isinstance(path, str) and path and _is_text(path):
            raise DataError(f"source[{number}] is a text, not a path; give a list of texts as texts=[...]")
    return source


def _is_text(source: str) -> bool:
    if "\n" in source or not source.strip() or len(source) > LONGEST_PATH:
        return True
    return " " in source and not _FILE_NAME.search(source) and not os.path.lexists(os.path.expanduser(source))


def _named_paths(paths: Iterable[str | Path]) -> list[Path]:
    """Return the named paths, with the home folder for `~`.

    Raises:
        DataError: for an empty name, or no name.
    """
    paths = list(paths)
    if "" in paths:  # such as an empty variable of a shell; as a path it would be the current folder
        raise DataError("the name of a document is empty; name a file or a folder")
    if not paths:
        raise DataError(f"no documents; name at least one file ({READABLE})")
    return [Path(os.path.expanduser(path)) for path in paths]


def _common_folder(named: Sequence[Path]) -> str:
    """Return the folder that all named paths are in; a folder is in itself.  Empty if there is none."""
    folders = [os.path.abspath(path if os.path.isdir(path) else path.parent) for path in named]
    try:
        return os.path.commonpath(folders)
    except ValueError:  # no paths, or paths on several drives
        return ""


def _name(path: Path, folder: str) -> str:
    """Return the path of a file from a folder; the whole path if there is no folder."""
    whole = os.path.abspath(path)
    relative = os.path.relpath(whole, folder) if folder else whole
    return shown_name(Path(relative))


def _names(document: Document) -> Iterator[str]:
    """Yield names for a document: its own, then longer paths, then its own with a number."""
    yield document.source
    if document.path is not None:
        parts = _name(document.path, "").split("/")
        for count in range(document.source.count("/") + 2, len(parts)):
            yield "/".join(parts[-count:])
    number = 2
    while True:
        yield f"{document.source} ({number})"
        number += 1


def _some(skipped: Sequence[Skipped]) -> str:
    """Return the first of some skipped files with their reasons, without advice, and the number of the others."""
    shown = ", ".join(str(each).partition(";")[0] for each in skipped[:SHOWN])
    return f"{shown} and {len(skipped) - SHOWN} more" if len(skipped) > SHOWN else shown
