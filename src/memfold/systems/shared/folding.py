"""Folds documents into memories in this process, with any system, for evaluation and rollouts.

Memory files are written by `memfold.memory.writer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from memfold.core.document import Document
from memfold.core.model import Model
from memfold.core.registry import AnySystem, encoder_of
from memfold.core.types import Block, Memory


def fold(system: AnySystem, documents: Sequence[Document], model: Model) -> list[Memory]:
    """Return one memory per document; the documents are compressed together, without gradients."""
    system = system.settled(documents, model)
    blocks: list[list[Block]] = [[] for _ in documents]
    with without_gradients(model):
        for block in system.compress(documents, model):
            blocks[block.source].append(replace(block, source=0))
    fingerprint = encoder_of(system, model)
    return [
        Memory(document.source, system.name, system.settings, fingerprint, (document.source,), document_blocks)
        for document, document_blocks in zip(documents, blocks, strict=True)
    ]


def without_gradients(model: Model) -> AbstractContextManager[object]:
    """Return a context in which a model records no gradients; a model behind an endpoint needs none, and no torch."""
    if not model.has_weights:
        return nullcontext()
    import torch

    return torch.no_grad()
