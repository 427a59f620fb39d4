"""The Python API: fold documents, save and open the memory, ask questions.

    memory = memfold.fold("report.txt")
    memory.save("report.fold")
    memory.append("minutes.txt")
    print(memfold.open("report.fold").ask("Who signed it?").text)

The command line uses the same functions.  Training and evaluation have their own modules.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from memfold.backbone.resolve import TINY
from memfold.core.arguments import check_callable, check_path, check_type
from memfold.core.document import Document
from memfold.core.registry import DEFAULT
from memfold.folded import FoldedMemory
from memfold.folding import Progress, fold_memory
from memfold.memory import open_memory
from memfold.response import Response
from memfold.session import Session, open_session, session_for
from memfold.sources import Source, Texts, given_documents

__all__ = ["FoldedMemory", "Response", "fold", "fold_documents", "open"]

DOUBT = 256  # tokens of text that are read again if the text does not support a reply


def fold(
    source: Source | None = None,
    *,
    texts: Texts | None = None,
    system: str = DEFAULT,
    model: str = TINY,
    ratio: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    progress: Progress | None = None,
) -> FoldedMemory:
    """Fold a file, a folder, a list of paths, or a text, and keep the memory in RAM.

    `texts` takes the place of `source`: a list of texts, or a mapping of names to texts, each of them a document.
    `progress` is called with each block.  `memfold fold` instead writes a file block by block, with constant memory use
    for texts of any length.

    Raises:
        ConfigError, DataError, CheckpointError: for an argument or a file that cannot be used.
        TypeError: for an argument of another type.
    """
    _check_types(system, model, ratio, device, dtype)
    check_callable("progress", progress)
    inputs = given_documents(source, texts)
    session = open_session(system, model, ratio, device, dtype)
    return fold_documents(inputs, session, progress).doubting(DOUBT)


def open(
    path: str | Path,
    *,
    model: str = TINY,
    system: str | None = None,
    ratio: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> FoldedMemory:
    """Open a memory file; `model` must be the model that folded it, or one trained to read its memories.

    Raises:
        DataError: for a damaged file, or another model, system or ratio; the message gives both values.
        TypeError: for an argument of another type.
    """
    check_path("path", path)
    _check_types(system, model, ratio, device, dtype)
    memory = open_memory(path)
    return FoldedMemory(memory, session_for(memory, model, system, ratio, device, dtype)).doubting(DOUBT)


def fold_documents(inputs: Sequence[Document], session: Session, progress: Progress | None = None) -> FoldedMemory:
    """Fold documents and keep the memory in RAM; `progress` is called with each block.

    Raises:
        DataError: for slots that are not finite.
    """
    started = time.perf_counter()
    memory = fold_memory(inputs, session, progress)
    return FoldedMemory(memory, session, time.perf_counter() - started)


def _check_types(system: object, model: object, ratio: object, device: object, dtype: object) -> None:
    """Refuse arguments of `fold` and `open` that have the wrong type."""
    for name, value in (("model", model), ("device", device), ("dtype", dtype)):
        check_type(name, value, str, "a string")
    check_type("system", system, (str, type(None)), "a string")
    if ratio is not None:
        check_type("ratio", ratio, int, "an integer")
