"""Documents into memories that stay in this process, by whichever system: for evaluation and for rollouts.

Left out: memory files (`memfold.memory.writer`), and where a text comes from.
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
    """A memory for each document, folded together."""
    blocks: list[list[Block]] = [[] for _ in documents]
    with torch.no_grad():
        for block in system.compress(documents, model):
            blocks[block.source].append(replace(block, source=0))
    fingerprint = model.readable[0]
    return [
        Memory(document.source, system.name, system.settings, fingerprint, (document.source,), own)
        for document, own in zip(documents, blocks, strict=True)
    ]
