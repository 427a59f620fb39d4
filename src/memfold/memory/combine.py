"""What goes together: a memory and a system that is to read it, memories with each other, a memory and new documents.

Left out: converting a memory for another encoder; that means folding again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from memfold.core.document import Document
from memfold.core.errors import DataError
from memfold.core.types import Block, Memory
from memfold.memory.manifest import Manifest, canonical


def check_readable(
    memory: Memory | Manifest, *, system: str, fingerprints: Sequence[str], settings: Mapping[str, Any]
) -> None:
    """Refuse a memory that a reader of `system` cannot use.

    `fingerprints` are those of the encoders that the decoder reads; `settings` only those that must agree, such as
    `{"ratio": 16}`.

    Raises:
        DataError: naming the memory's value and the reader's.
    """
    if memory.system != system:
        raise DataError(f"the memory is of system {memory.system!r}, the reader of {system!r}; use the memory's system")
    if memory.fingerprint not in fingerprints:
        known = ", ".join(map(repr, fingerprints)) or "none"
        raise DataError(
            f"the memory was folded by the model and tokenizer {memory.fingerprint!r}, the reader knows {known}; "
            "use that model or fold again with this one"
        )
    for name, value in settings.items():
        found = memory.settings.get(name)
        if canonical(found) != canonical(value):
            raise DataError(f"the memory has {name} {found!r}, the reader {value!r}; fold again or change the setting")


def concatenate(memories: Sequence[Memory]) -> Memory:
    """One memory of all documents, in the order given.

    A document that is there already (same sha256) is dropped with its blocks; the first one stays.

    Raises:
        DataError: when the memories were not made by the same system, settings and encoder, or lack document hashes.
    """
    if not memories:
        raise DataError("no memories to concatenate; give at least one")
    first = memories[0]
    places: dict[str, int] = {}
    sources: list[str] = []
    blocks: list[Block] = []
    for memory in memories:
        check_readable(memory, system=first.system, fingerprints=(first.fingerprint,), settings=_all(first, memory))
        if len(memory.sha256) != len(memory.sources):
            raise DataError(
                f"memory {memory.name!r} has {len(memory.sha256)} hashes for {len(memory.sources)} documents"
            )
        moved: dict[int, int] = {}
        for number, (source, sha256) in enumerate(zip(memory.sources, memory.sha256, strict=True)):
            if sha256 not in places:
                places[sha256] = moved[number] = len(sources)
                sources.append(source)
        for block in memory.blocks:
            if block.source in moved:
                blocks.append(replace(block, index=len(blocks), source=moved[block.source]))
    name = hashlib.sha256(canonical([[memory.name, memory.sha256] for memory in memories]).encode()).hexdigest()[:16]
    return replace(first, name=name, sources=tuple(sources), blocks=blocks, sha256=tuple(places))


def splice(source: str, memories: Sequence[Memory]) -> Memory:
    """The memory of one document `source`, from those of the pieces of its text in their order.

    It reads as the whole text folded at once where every border falls on that of a window; elsewhere the last window
    and group of a piece are shorter.  Each piece is the memory of one document.

    Raises:
        DataError: without pieces, or when they were not made by the same system, settings and encoder.
    """
    if not memories:
        raise DataError("no pieces to splice; give at least one")
    first = memories[0]
    blocks: list[Block] = []
    tokens = characters = 0
    for memory in memories:
        check_readable(memory, system=first.system, fingerprints=(first.fingerprint,), settings=_all(first, memory))
        for block in memory.blocks:
            moved = _moved(block, tokens, characters)
            blocks.append(replace(moved, index=len(blocks), source=0))
        if memory.blocks:
            tokens, characters = blocks[-1].token_end, blocks[-1].char_end
    return replace(first, name=source, sources=(source,), blocks=blocks, sha256=())


def sort_out(documents: Iterable[Document], manifest: Manifest) -> tuple[list[Document], list[tuple[Document, str]]]:
    """The documents whose text a memory lacks; and the others, each with the name under which its text is known."""
    known = dict(zip(manifest.sha256, manifest.sources, strict=True))
    missing: list[Document] = []
    doubles: list[tuple[Document, str]] = []
    for document in documents:
        sha256 = document.sha256()
        if sha256 in known:
            doubles.append((document, known[sha256]))
        else:
            missing.append(document)
            known[sha256] = document.source
    return missing, doubles


def _all(first: Memory, other: Memory) -> dict[str, Any]:
    """Every setting of either memory, as the first has it."""
    return {name: first.settings.get(name) for name in sorted({*first.settings, *other.settings})}


def _moved(block: Block, tokens: int, characters: int) -> Block:
    """The same block with that much of a document before it."""
    return replace(
        block,
        token_start=block.token_start + tokens,
        token_end=block.token_end + tokens,
        char_start=block.char_start + characters,
        char_end=block.char_end + characters,
    )
