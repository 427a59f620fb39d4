"""Invented memories for the tests of this folder: any bits as slots, any text, documents cut anywhere."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from memfold.core.types import Block, Memory
from memfold.memory import Manifest, MemoryWriter
from memfold.memory.manifest import CHECKSUMS, Contents, decode, encode, tensors

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def random_bits(shape: tuple[int, int], dtype: str, seed: int) -> Tensor:
    """A tensor of arbitrary bits, except that NaN and infinities are 0."""
    count = shape[0] * shape[1] * TYPES[dtype].itemsize
    data = np.random.default_rng(seed).integers(0, 256, count, dtype=np.uint8)
    slots = torch.from_numpy(data).view(TYPES[dtype]).view(shape) if count else torch.empty(shape, dtype=TYPES[dtype])
    return slots.where(torch.isfinite(slots), 0)


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Equality that tells 0 from -0."""
    return left.dtype == right.dtype and torch.equal(left.view(BITS[left.dtype]), right.view(BITS[right.dtype]))


def make_memory(
    texts: list[list[str]],
    tokens: list[list[int]],
    settings: dict[str, Any],
    dtype: str,
    seed: int = 0,
    hidden: int = 4,
) -> Memory:
    """Documents as lists of chunk texts, with as many tokens for each chunk as `tokens` says, and slots at the ratio
    of the settings, if they have one."""
    ratio = settings.get("ratio")
    blocks: list[Block] = []
    for source, (chunks, counts) in enumerate(zip(texts, tokens, strict=True)):
        token = character = 0
        for text, count in zip(chunks, counts, strict=True):
            slots = random_bits((-(-count // ratio), hidden), dtype, seed + len(blocks)) if ratio else None
            block = Block(
                index=len(blocks),
                source=source,
                token_start=token,
                token_end=token + count,
                char_start=character,
                char_end=character + len(text),
                slots=slots,
                text=text or None,
            )
            blocks.append(block)
            token, character = token + count, character + len(text)
    sources = tuple(f"document {i}.txt" for i in range(len(texts)))
    hashes = tuple(hashlib.sha256("".join(chunks).encode() + bytes([i])).hexdigest() for i, chunks in enumerate(texts))
    return Memory("made", "pooled" if ratio else "full", settings, "encoder-1", sources, blocks, hashes)


@st.composite
def memories(draw: st.DrawFn, dtypes: tuple[str, ...] = tuple(TYPES), slots: bool | None = None) -> tuple[Memory, str]:
    """A memory and the dtype that keeps its slots bit for bit.  Some have as many slots as their ratio makes, as pooled
    memory does, others any number: how many there are is for the system to say."""
    dtype = draw(st.sampled_from(dtypes))
    with_slots = draw(st.booleans()) if slots is None else slots
    settings: dict[str, Any] = {"ratio": draw(st.sampled_from((1, 3, 16)))} if with_slots else {"chunk": 9}
    texts = draw(st.lists(st.lists(TEXT, min_size=1, max_size=4), min_size=1, max_size=3))
    tokens = [[draw(st.integers(0, 40)) for _ in chunks] for chunks in texts]
    hidden = draw(st.integers(1, 5))
    memory = make_memory(texts, tokens, settings, dtype, draw(st.integers(0, 99)), hidden)
    order = draw(st.permutations([block.source for block in memory.blocks]))  # the documents may take turns
    queues = [[block for block in memory.blocks if block.source == source] for source in range(len(texts))]
    memory.blocks = [replace(queues[source].pop(0), index=number) for number, source in enumerate(order)]
    if with_slots and draw(st.booleans()):
        counts = [draw(st.integers(0, 9)) for _ in memory.blocks]
        memory.blocks = [
            replace(block, slots=random_bits((count, hidden), dtype, block.index))
            for block, count in zip(memory.blocks, counts, strict=True)
        ]
    return memory, dtype


def small_memory(dtype: str = "bfloat16") -> Memory:
    """Two documents of two and three blocks at ratio 4."""
    texts = [["Ann signed it.\n", "Ben read it.\n"], ["Zoë ", "went to ", "Łódź."]]
    return make_memory(texts, [[9, 8], [4, 5, 6]], {"ratio": 4, "hidden": 4, "wrappers": "span"}, dtype)


def manifest_of(memory: Memory, dtype: str = "bfloat16", keep_text: bool = True) -> Manifest:
    return Manifest(memory.system, memory.settings, memory.fingerprint, memory.sources, memory.sha256, dtype, keep_text)


def parsed(path: Path) -> tuple[Manifest, Contents, dict[str, tuple[int, int]]]:
    """The header of a file, and where in the file each tensor begins and ends."""
    data = path.read_bytes()
    length = 8 + int.from_bytes(data[:8], "little")
    manifest, contents = decode(data[8:length])
    return manifest, contents, {one.name: (length + one.start, length + one.end) for one in tensors(manifest, contents)}


def without_checksums(path: Path) -> None:
    """Write a file again as it was written before there were checksums, in version 1 of the format."""
    data, (manifest, contents, places) = path.read_bytes(), parsed(path)
    hashes = {name: value for name, value in contents.tensors.items() if name != CHECKSUMS}
    parts = [data[start:end] for name, (start, end) in places.items() if name != CHECKSUMS]
    path.write_bytes(encode(manifest, replace(contents, tensors=hashes)) + b"".join(parts))


def flip(path: Path, offset: int, bit: int = 0) -> None:
    """Alter one bit of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def write_some(path: Path, memory: Memory, dtype: str, count: int) -> None:
    """Write the first blocks and stop, as a killed fold does: nothing is closed or tidied up."""
    writer = MemoryWriter(path, manifest_of(memory, dtype))
    for block in itertools.islice(memory.blocks, count):
        writer.add(block)
