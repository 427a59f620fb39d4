"""Checks which memories a system can read, joins memories, and finds documents that a memory already holds.

A memory cannot be converted for another encoder; the document must be folded again.
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

SHOWN_DIGITS = 12  # of a fingerprint, in messages


def check_readable(
    memory: Memory | Manifest,
    *,
    system: str,
    fingerprints: Sequence[str],
    settings: Mapping[str, Any],
    reader: str | None = None,
) -> None:
    """Check that a system with these settings can read a memory.

    `fingerprints` are those of the encoders whose memories the decoder reads; `settings` are those that must be equal,
    such as `{"ratio": 16}`; `reader` is the name of the model, for the message.

    Raises:
        DataError: if it cannot; the message has both values.
    """
    if memory.system != system:
        raise DataError(f"this memory was made by system {memory.system!r}, not {system!r}; leave the system out")
    if memory.fingerprint not in fingerprints:
        known = " or ".join(fingerprint[:SHOWN_DIGITS] for fingerprint in fingerprints) or "none"
        other = f"model {reader!r} reads those of {known}" if reader else f"the reader knows {known}"
        raise DataError(
            f"this memory was folded by {_model_of(memory)} (fingerprint {memory.fingerprint[:SHOWN_DIGITS]}); "
            f"{other}; use that model, or fold the document again"
        )
    for name, value in settings.items():
        found = memory.settings.get(name)
        if canonical(found) != canonical(value):
            raise DataError(
                f"this memory has {name} = {found!r}, not {value!r}; fold the document again, or change the setting"
            )


def concatenate(memories: Sequence[Memory]) -> Memory:
    """Join memories into one memory of all documents, in the given order.

    Of several documents with the same text (the same SHA-256), only the first one and its blocks are kept.

    Raises:
        DataError: if the memories were not made with the same system, settings and encoder, or lack document hashes.
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
    """Join the memories of the pieces of a text, in their order, into the memory of one document named `source`.

    The result equals that of folding the whole text at once if each piece ends where a window ends; otherwise the last
    window and group of a piece are shorter.  Each piece is the memory of one document.

    Raises:
        DataError: if there are no pieces, or they were not made with the same system, settings and encoder.
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


def sort_out(
    documents: Iterable[Document], manifest: Manifest | Memory
) -> tuple[list[Document], list[tuple[Document, str]]]:
    """Return the documents whose text a memory lacks, and the others with the names of the documents they repeat."""
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


def _model_of(memory: Memory | Manifest) -> str:
    """Return the model that a memory records, as a part of a sentence."""
    name = memory.settings.get("model")
    return f"model {name!r}" if name else "another model"


def _all(first: Memory, other: Memory) -> dict[str, Any]:
    """Return every setting of either memory, with the value that the first one has."""
    return {name: first.settings.get(name) for name in sorted({*first.settings, *other.settings})}


def _moved(block: Block, tokens: int, characters: int) -> Block:
    """Return the same block, with this many tokens and characters of the document before it."""
    return replace(
        block,
        token_start=block.token_start + tokens,
        token_end=block.token_end + tokens,
        char_start=block.char_start + characters,
        char_end=block.char_end + characters,
    )
