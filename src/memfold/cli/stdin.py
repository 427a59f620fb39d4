"""Opens the documents that a command names; `-` is standard input."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from memfold.core.document import Document, open_document
from memfold.core.errors import DataError
from memfold.sources import documents


def read_sources(names: Sequence[str]) -> list[Document]:
    """Return the documents in the order of their names, each of them checked.

    Raises:
        DataError: for one that is missing, empty, binary or of a kind that cannot be read.
    """
    found: list[Document] = []
    for name in names:
        found += [_standard_input()] if name == "-" else documents(Path(name))
    return found


def distinct(documents: Sequence[Document]) -> list[Document]:
    """Return the documents without those whose text is that of an earlier one; a line on standard error names each."""
    from memfold.cli.output import notes

    kept: dict[str, Document] = {}
    for document in documents:
        first = kept.setdefault(document.sha256(), document)
        if first is not document:
            notes().print(f"skipped {document.source}: {first.source} has the same text", markup=False)
    return list(kept.values())


def _standard_input() -> Document:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stdin"
        path.write_bytes(sys.stdin.buffer.read())
        try:
            return Document("stdin", text=open_document(path).read())
        except DataError as error:
            raise DataError(str(error).replace(str(path), "standard input")) from None
