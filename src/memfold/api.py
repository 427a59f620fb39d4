"""The Python API: fold documents, save and open the memory, ask questions.

    memory = memfold.fold("report.txt")
    memory.save("report.fold")
    memory.append("minutes.txt")
    print(memfold.open("report.fold").ask("Who signed it?").text)

The command line uses the same functions.  Training and evaluation have their own modules.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memfold.backbone.named.table import TINY
from memfold.core.arguments import check_callable, check_path, check_type
from memfold.core.document import Document
from memfold.folded import FoldedMemory
from memfold.folding import Progress, fold_memory
from memfold.memory import open_memory
from memfold.memory.reader import read_manifest
from memfold.response import Response
from memfold.session import Session, check_request, open_session, session_for
from memfold.sources import Skipped, Source, Texts, given_inputs

__all__ = ["FoldedMemory", "Response", "fold", "fold_documents", "open"]

DOUBT = 256  # tokens of text that are read again if the text does not support a reply


def fold(
    source: Source | None = None,
    *,
    texts: Texts | None = None,
    system: str | None = None,
    model: str = TINY,
    ratio: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> FoldedMemory:
    """Fold a file, a folder, a list of paths, or a text, and keep the memory in RAM.

    A named file that cannot be read is an error.  A file in a folder that cannot be read is skipped with a warning;
    `skipped` of the memory lists all that was skipped, duplicates and hidden files too.  Each text is folded once.
    Without a `system`, it is the one that the model was trained for, or `retrieval` if there is none.
    `settings` are those of the system (docs/concepts.md), such as {"note": 256}.
    `texts` takes the place of `source`: a list of texts, or a mapping of names to texts, each of them a document.
    `progress` is called with each block.  `memfold fold` instead writes a file block by block, with constant memory use
    for texts of any length.

    Raises:
        ConfigError, DataError, CheckpointError: for an argument or a file that cannot be used.
        TypeError: for an argument of another type.
    """
    _check_types(system, model, ratio, device, dtype)
    check_callable("progress", progress)
    inputs = given_inputs(source, texts)
    check_type("settings", settings, (Mapping, type(None)), "a mapping")
    session = open_session(system, model, ratio, device, dtype, settings)
    return fold_documents(inputs.documents, session, progress, inputs.skipped).doubting(DOUBT)


def open(
    path: str | Path,
    *,
    model: str = TINY,
    system: str | None = None,
    ratio: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> FoldedMemory:
    """Open a memory file.

    Slots need the model that folded them, or one that was trained to read its memories; a memory of text opens with any
    `model`.

    Raises:
        DataError: for a damaged file, another system or ratio, or slots of another model; the message has both values.
        TypeError: for an argument of another type.
    """
    check_path("path", path)
    _check_types(system, model, ratio, device, dtype)
    manifest = read_manifest(path)
    if manifest is not None:  # otherwise opening it says why
        check_request(manifest, model, system, ratio)
    memory = open_memory(path)
    return FoldedMemory(memory, session_for(memory, model, system, ratio, device, dtype)).doubting(DOUBT)


def fold_documents(
    documents: Sequence[Document],
    session: Session,
    progress: Progress | None = None,
    skipped: Sequence[Skipped] = (),
) -> FoldedMemory:
    """Fold documents and keep the memory in RAM; `progress` is called with each block.

    `skipped` is what was found with the documents and left out.

    Raises:
        DataError: for slots that are not finite.
    """
    started, session = time.perf_counter(), session.settled(documents)
    memory = fold_memory(documents, session, progress)
    return FoldedMemory(memory, session, time.perf_counter() - started, tuple(skipped))


def _check_types(system: object, model: object, ratio: object, device: object, dtype: object) -> None:
    """Refuse arguments of `fold` and `open` that have the wrong type."""
    for name, value in (("model", model), ("device", device), ("dtype", dtype)):
        check_type(name, value, str, "a string")
    check_type("system", system, (str, type(None)), "a string")
    if ratio is not None:
        check_type("ratio", ratio, int, "an integer")
