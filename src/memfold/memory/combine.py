"""Checks which memories a system can read, joins memories, and finds documents that a memory already holds.

A memory of text belongs to no model: any model reads it, and it joins any other of its system.  Slots belong to the
encoder that made them and cannot be converted for another one; the document must be folded again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from memfold.core.document import Document
from memfold.core.errors import DataError
from memfold.core.model import ModelRecord
from memfold.core.registry import has_slots
from memfold.core.types import Block, Memory
from memfold.memory.manifest import DESCRIPTIVE, Manifest, canonical


def check_system(memory: Memory | Manifest, system: str) -> None:
    """Refuse another system than the one that made a memory.

    Raises:
        DataError: with both names.
    """
    if memory.system != system:
        raise DataError(f"this memory was made by system {memory.system!r}, not {system!r}; leave the system out")


def check_readable(memory: Memory | Manifest, model: ModelRecord, *, system: str, settings: Mapping[str, Any]) -> None:
    """Check that a model can read a memory with a system.

    `settings` are those of the system that must be equal, such as `{"ratio": 16}`; they count for slots only.

    Raises:
        DataError: if it cannot; the message has both values.
    """
    check_system(memory, system)
    if not has_slots(system):
        return
    if memory.fingerprint not in model.readable:
        raise DataError(
            f"this memory was folded by {_model_of(memory, model.name)}, and model {model.name!r} cannot read its "
            "slots; use the model that folded it, or fold the document again"
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
        DataError: if the memories do not go together (`_check_joins`), or lack document hashes.
    """
    if not memories:
        raise DataError("no memories to concatenate; give at least one")
    first = memories[0]
    places: dict[str, int] = {}
    sources: list[str] = []
    blocks: list[Block] = []
    for memory in memories:
        _check_joins(first, memory)
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
                blocks.append(block.moved(index=len(blocks), source=moved[block.source]))
    name = hashlib.sha256(canonical([[memory.name, memory.sha256] for memory in memories]).encode()).hexdigest()[:16]
    return replace(first, name=name, sources=tuple(sources), blocks=blocks, sha256=tuple(places))


def splice(source: str, memories: Sequence[Memory]) -> Memory:
    """Join the memories of the pieces of a text, in their order, into the memory of one document named `source`.

    The result equals that of folding the whole text at once if each piece ends where a window ends; otherwise the last
    window and group of a piece are shorter.  Each piece is the memory of one document.

    Raises:
        DataError: if there are no pieces, or they do not go together (`_check_joins`).
    """
    if not memories:
        raise DataError("no pieces to splice; give at least one")
    first = memories[0]
    blocks: list[Block] = []
    tokens = characters = 0
    for memory in memories:
        _check_joins(first, memory)
        for block in memory.blocks:
            blocks.append(_moved(block, tokens, characters).moved(index=len(blocks), source=0))
        if memory.blocks:
            tokens, characters = blocks[-1].token_end, blocks[-1].char_end
    return replace(first, name=source, sources=(source,), blocks=blocks, sha256=())


def same_encoder(memory: Memory | Manifest, other: Memory | Manifest) -> bool:
    """Return whether two memories of one system were folded by one encoder; text has none, so it always matches."""
    return not has_slots(memory.system) or memory.fingerprint == other.fingerprint


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


def _check_joins(first: Memory, other: Memory) -> None:
    """Check that two memories can be read as one: they have one system and, if they hold slots, one encoder.

    The settings of slots must be equal too, apart from the properties of the model that are recorded with them.

    Raises:
        DataError: with both values.
    """
    if other.system != first.system:
        raise DataError(
            f"a memory of system {other.system!r} cannot join one of system {first.system!r}; fold both with one system"
        )
    if not has_slots(first.system):
        return
    if not same_encoder(other, first):
        name = first.settings.get("model")
        raise DataError(
            f"slots of {_model_of(other, name)} cannot join those of {_model_of(first)}; fold both with one model"
        )
    for name in sorted({*first.settings, *other.settings} - {*DESCRIPTIVE}):
        found, wanted = other.settings.get(name), first.settings.get(name)
        if canonical(found) != canonical(wanted):
            raise DataError(
                f"slots with {name} = {found!r} cannot join those with {name} = {wanted!r}; fold both with the same "
                "settings"
            )


def _model_of(memory: Memory | Manifest, other: str | None = None) -> str:
    """Return the model that a memory records, as a part of a sentence about it and a model named `other`."""
    name = memory.settings.get("model")
    if not name:
        return "another model"
    return f"another model that is also named {name!r}" if name == other else f"model {name!r}"


def _moved(block: Block, tokens: int, characters: int) -> Block:
    """Return the same block, with this many tokens and characters of the document before it."""
    return block.moved(
        token_start=block.token_start + tokens,
        token_end=block.token_end + tokens,
        char_start=block.char_start + characters,
        char_end=block.char_end + characters,
    )
