"""Folds documents into memories in this process, with any system, for evaluation and rollouts.

Memory files are written by `memfold.memory.writer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from memfold.core.document import Document
from memfold.core.model import Model
from memfold.core.registry import AnySystem
from memfold.core.types import Block, Memory


def fold(system: AnySystem, documents: Sequence[Document], model: Model) -> list[Memory]:
    """Return one memory per document; the documents are compressed together, without gradients."""
    blocks: list[list[Block]] = [[] for _ in documents]
    with torch.no_grad():
        for block in system.compress(documents, model):
            blocks[block.source].append(replace(block, source=0))
    fingerprint = model.readable[0]
    return [
        Memory(document.source, system.name, system.settings, fingerprint, (document.source,), document_blocks)
        for document, document_blocks in zip(documents, blocks, strict=True)
    ]
