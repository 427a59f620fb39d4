"""Folds documents into a memory file block by block, so RAM use does not grow with the length of the text.

An interrupted fold can be resumed after its last complete block.  `fold_memory` keeps the memory in RAM instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from memfold.core.document import Document
from memfold.core.errors import DataError
from memfold.core.registry import check_keeps_text, encoder_of
from memfold.core.types import Block, Memory
from memfold.memory import (
    Manifest,
    MemoryWriter,
    StoredMemory,
    WriteLock,
    check_target,
    claimed,
    open_stored,
    sort_out,
    verify,
)
from memfold.memory.reader import read_manifest
from memfold.memory.slots import check_finite
from memfold.session import Session, check_extends
from memfold.systems.shared.folding import without_gradients

Progress = Callable[[Block], None]


def fold_file(
    documents: Sequence[Document],
    path: str | Path,
    session: Session,
    *,
    keep_text: bool = True,
    dtype: str = "bfloat16",
    progress: Progress | None = None,
    on_resume: Callable[[int], None] | None = None,
    force: bool = False,
    lock: WriteLock | None = None,
) -> None:
    """Fold documents into a memory file, resuming an interrupted fold of the same documents.

    `progress` is called with each new block.  When a fold is resumed, `on_resume` is first called with the number of
    blocks that are already written.  `force` replaces a file that is no memory of these documents; `lock` is that of
    the path, if the caller holds it.

    Raises:
        ConfigError: if `keep_text` is false and the memory is the text itself.
        DataError: if the file is being written by another process, is one of the documents, or would be replaced.
    """
    session = session.settled(documents)
    check_keeps_text(session.system, keep_text)
    manifest = _manifest(documents, session, dtype, keep_text)
    with claimed(path, input_paths(documents), lock) as held:
        check_target(path, manifest.sha256, force=force)
        _write(documents, held, session, manifest, None, progress, on_resume)


def is_folded(
    documents: Sequence[Document],
    path: str | Path,
    session: Session,
    *,
    keep_text: bool = True,
    dtype: str = "bfloat16",
) -> bool:
    """Return whether a path has the memory that `fold_file` would write; all of it is read, and nothing is folded."""
    expected = _manifest(documents, session.settled(documents), dtype, keep_text)
    try:
        return read_manifest(path) == expected and not verify(path)
    except DataError:  # it is not whole
        return False


def append_file(
    documents: Sequence[Document],
    stored: StoredMemory,
    session: Session,
    *,
    progress: Progress | None = None,
    on_resume: Callable[[int], None] | None = None,
    force: bool = False,
    lock: WriteLock | None = None,
) -> None:
    """Append documents to a memory file: existing blocks are copied unchanged, and new blocks follow them.

    New slots and text are stored in the format of the file.  The file is
    replaced at the end; an interrupted call is resumed as in `fold_file`.  What another process appended since `stored`
    was opened is kept, and a document that it appended is skipped.  `force` discards an interrupted fold of other
    documents.

    Raises:
        DataError: if the model of the session did not fold the slots of the file, or if the file is being written by
            another process or was replaced by a memory of another kind.
    """
    check_extends(stored.manifest, session)
    with claimed(stored.path, input_paths(documents), lock) as held:
        current = open_stored(stored.path)
        if current.layout.digest != stored.layout.digest:
            _check_same_form(current, stored)
            documents, _ = sort_out(documents, current.manifest)
        if not documents:
            return
        existing = current.manifest
        added = _manifest(documents, session, existing.dtype, existing.keep_text)
        manifest = replace(existing, sources=existing.sources + added.sources, sha256=existing.sha256 + added.sha256)
        check_target(stored.path, manifest.sha256, grown=True, force=force)
        _write(documents, held, session, manifest, current, progress, on_resume)


def fold_memory(documents: Sequence[Document], session: Session, progress: Progress | None = None) -> Memory:
    """Fold documents into a memory in RAM; `progress` is called with each block.

    Raises:
        DataError: for slots that are not finite.
    """
    session = session.settled(documents)
    blocks: list[Block] = []
    with without_gradients(session.model):
        for block in session.system.compress(documents, session.model):
            if block.slots is not None:
                check_finite(block.slots)
            blocks.append(replace(block, index=len(blocks)))
            if progress is not None:
                progress(block)
    hashes, fingerprint = tuple(document.sha256() for document in documents), encoder_of(session.system, session.model)
    sources = tuple(document.source for document in documents)
    name = memory_name(hashes, session.settings, fingerprint)
    return Memory(name, session.system.name, session.settings, fingerprint, sources, blocks, hashes)


def memory_name(hashes: Sequence[str], settings: Mapping[str, Any], fingerprint: str) -> str:
    """Return the name of a memory, which depends on its documents and on how they are folded."""
    identity = repr((tuple(hashes), dict(settings), fingerprint))
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def input_paths(documents: Sequence[Document]) -> list[Path]:
    """The files that documents are read from."""
    return [document.path for document in documents if document.path is not None]


def _check_same_form(current: StoredMemory, stored: StoredMemory) -> None:
    """Refuse a file that became the memory of another system, model or format since it was opened."""
    now, before = (replace(one.manifest, sources=("",), sha256=("0" * 64,)) for one in (current, stored))
    if now != before:
        raise DataError(f"{stored.path} was replaced by another memory while it was open; open it again")


def _write(
    documents: Sequence[Document],
    lock: WriteLock,
    session: Session,
    manifest: Manifest,
    stored: StoredMemory | None,
    progress: Progress | None,
    on_resume: Callable[[int], None] | None,
) -> None:
    """Write a memory file: first the unchanged blocks of a stored one, if any, then those of the documents."""
    old_blocks, old_sources = (stored.block_count, len(stored.manifest.sources)) if stored is not None else (0, 0)
    writer = MemoryWriter(lock.path, manifest, resume=True, folding=session.settings, lock=lock)
    with writer, without_gradients(session.model):
        written = sum(writer.complete)
        if written and on_resume is not None:
            on_resume(written)
        for row, data in islice(stored.blocks() if stored is not None else (), written, None):
            writer.copy(row, data)
        for block in session.system.compress(documents, session.model, done=max(written - old_blocks, 0)):
            writer.add(replace(block, source=block.source + old_sources))
            if progress is not None:
                progress(block)
        writer.finish()


def _manifest(documents: Sequence[Document], session: Session, dtype: str, keep_text: bool) -> Manifest:
    """Create the manifest of a memory file of these documents."""
    sources = tuple(document.source for document in documents)
    hashes = tuple(document.sha256() for document in documents)
    fingerprint = encoder_of(session.system, session.model)
    return Manifest(session.system.name, session.settings, fingerprint, sources, hashes, dtype, keep_text)
