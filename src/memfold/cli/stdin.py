"""The documents that a command names, `-` being standard input."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from memfold.core.document import Document, open_document
from memfold.core.errors import DataError
from memfold.sources import documents


def read_sources(names: Sequence[str]) -> list[Document]:
    """Documents in the order of their names, each checked.

    Raises:
        DataError: for one that is missing, empty, binary or of a kind that cannot be read.
    """
    found: list[Document] = []
    for name in names:
        found += [_standard_input()] if name == "-" else documents(Path(name))
    return found


def _standard_input() -> Document:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stdin"
        path.write_bytes(sys.stdin.buffer.read())
        try:
            return Document("stdin", text=open_document(path).read())
        except DataError as error:
            raise DataError(str(error).replace(str(path), "standard input")) from None
