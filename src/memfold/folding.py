"""Folds documents into a memory file block by block, so RAM use does not grow with the length of the text.

An interrupted fold can be resumed after its last complete block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from memfold.core.document import Document
from memfold.core.types import Block
from memfold.memory import Manifest, MemoryWriter, StoredMemory
from memfold.session import Session

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
) -> None:
    """Fold documents into a memory file, resuming an interrupted fold of the same documents.

    `progress` is called with each new block.  When a fold is resumed, `on_resume` is first called with the number of
    blocks that are already written.
    """
    _write(documents, path, session, _manifest(documents, session, dtype, keep_text), None, progress, on_resume)


def append_file(
    documents: Sequence[Document],
    stored: StoredMemory,
    session: Session,
    *,
    progress: Progress | None = None,
    on_resume: Callable[[int], None] | None = None,
) -> None:
    """Append documents to a memory file: existing blocks are copied unchanged, and new blocks follow them.

    `session` must come from `session_for`.  New slots and text are stored in the format of the file.  The file is
    replaced at the end; an interrupted call is resumed as in `fold_file`.
    """
    existing = stored.manifest
    added = _manifest(documents, session, existing.dtype, existing.keep_text)
    manifest = replace(existing, sources=existing.sources + added.sources, sha256=existing.sha256 + added.sha256)
    _write(documents, stored.path, session, manifest, stored, progress, on_resume)


def _write(
    documents: Sequence[Document],
    path: str | Path,
    session: Session,
    manifest: Manifest,
    stored: StoredMemory | None,
    progress: Progress | None,
    on_resume: Callable[[int], None] | None,
) -> None:
    """Write a memory file: first the unchanged blocks of a stored one, if any, then those of the documents."""
    old_blocks, old_sources = (stored.block_count, len(stored.manifest.sources)) if stored is not None else (0, 0)
    with MemoryWriter(path, manifest, resume=True) as writer, torch.no_grad():
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
    fingerprint = session.model.readable[0]
    return Manifest(session.system.name, session.settings, fingerprint, sources, hashes, dtype, keep_text)
