"""Folds straight into a memory file, block by block: a long text needs no more memory than a short one, and an
interrupted fold goes on where it ended."""

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
    found: Sequence[Document],
    path: str | Path,
    session: Session,
    *,
    keep_text: bool = True,
    dtype: str = "bfloat16",
    progress: Progress | None = None,
    on_resume: Callable[[int], None] | None = None,
) -> None:
    """Fold documents straight into a memory file, block by block, going on where an interrupted fold of them ended.

    `progress` is called with each new block, `on_resume` first with the number of blocks that are there already.
    """
    _write(found, path, session, _manifest(found, session, dtype, keep_text), None, progress, on_resume)


def append_file(
    found: Sequence[Document],
    stored: StoredMemory,
    session: Session,
    *,
    progress: Progress | None = None,
    on_resume: Callable[[int], None] | None = None,
) -> None:
    """Add documents to a memory file: its blocks are copied as they are, the new ones folded behind them.

    `session` is that of `session_for`; slots and text are stored as the file stores its own.  The file is replaced at
    the end, and an interrupted call goes on as one of `fold_file` does.
    """
    old = stored.manifest
    added = _manifest(found, session, old.dtype, old.keep_text)
    manifest = replace(old, sources=old.sources + added.sources, sha256=old.sha256 + added.sha256)
    _write(found, stored.path, session, manifest, stored, progress, on_resume)


def _write(
    found: Sequence[Document],
    path: str | Path,
    session: Session,
    manifest: Manifest,
    stored: StoredMemory | None,
    progress: Progress | None,
    on_resume: Callable[[int], None] | None,
) -> None:
    """Write a memory file: the blocks of a stored one, if any, as they are, then those of documents."""
    blocks, sources = (stored.block_count, len(stored.manifest.sources)) if stored is not None else (0, 0)
    with MemoryWriter(path, manifest, resume=True) as writer, torch.no_grad():
        kept = sum(writer.complete)
        if kept and on_resume is not None:
            on_resume(kept)
        for row, data in islice(stored.blocks() if stored is not None else (), kept, None):
            writer.copy(row, data)
        for block in session.system.compress(found, session.model, done=max(kept - blocks, 0)):
            writer.add(replace(block, source=block.source + sources))
            if progress is not None:
                progress(block)
        writer.finish()


def _manifest(found: Sequence[Document], session: Session, dtype: str, keep_text: bool) -> Manifest:
    """What a memory file of these documents says of itself."""
    sources = tuple(document.source for document in found)
    hashes = tuple(document.sha256() for document in found)
    fingerprint = session.model.readable[0]
    return Manifest(session.system.name, session.settings, fingerprint, sources, hashes, dtype, keep_text)
