"""Invented memories for the tests of this folder: any bits as slots, any text, documents cut anywhere."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from memfold.core.types import Block, Memory
from memfold.memory import Manifest, MemoryWriter

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def random_bits(shape: tuple[int, int], dtype: str, seed: int) -> Tensor:
    """A tensor of arbitrary bits, NaN and infinities among them."""
    count = shape[0] * shape[1] * TYPES[dtype].itemsize
    data = np.random.default_rng(seed).integers(0, 256, count, dtype=np.uint8)
    return torch.from_numpy(data).view(TYPES[dtype]).view(shape) if count else torch.empty(shape, dtype=TYPES[dtype])


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Equality that NaN does not break."""
    return left.dtype == right.dtype and torch.equal(left.view(BITS[left.dtype]), right.view(BITS[right.dtype]))


def make_memory(texts: list[list[str]], tokens: list[list[int]], settings: dict[str, Any], dtype: str, seed: int = 0,
                hidden: int = 4) -> Memory:  # fmt: skip
    """Documents as lists of chunk texts, with as many tokens for each chunk as `tokens` says."""
    ratio = settings.get("ratio")
    blocks: list[Block] = []
    for source, (chunks, counts) in enumerate(zip(texts, tokens, strict=True)):
        token = character = 0
        for text, count in zip(chunks, counts, strict=True):
            starts = tuple(range(token, token + count, ratio)) if ratio else ()
            slots = random_bits((len(starts), hidden), dtype, seed + len(blocks)) if ratio else None
            blocks.append(Block(len(blocks), source, token, token + count, character, character + len(text), slots,
                                starts, text or None))  # fmt: skip
            token, character = token + count, character + len(text)
    sources = tuple(f"document {i}.txt" for i in range(len(texts)))
    hashes = tuple(hashlib.sha256("".join(chunks).encode() + bytes([i])).hexdigest() for i, chunks in enumerate(texts))
    return Memory("made", "pooled" if ratio else "full", settings, "encoder-1", sources, blocks, hashes)


@st.composite
def memories(draw: st.DrawFn, dtypes: tuple[str, ...] = tuple(TYPES), slots: bool | None = None) -> tuple[Memory, str]:
    """A memory and the dtype that keeps its slots bit for bit."""
    dtype = draw(st.sampled_from(dtypes))
    with_slots = draw(st.booleans()) if slots is None else slots
    settings: dict[str, Any] = {"ratio": draw(st.sampled_from((1, 3, 16)))} if with_slots else {"chunk": 9}
    texts = draw(st.lists(st.lists(TEXT, min_size=1, max_size=4), min_size=1, max_size=3))
    tokens = [[draw(st.integers(0, 40)) for _ in chunks] for chunks in texts]
    memory = make_memory(texts, tokens, settings, dtype, draw(st.integers(0, 99)), draw(st.integers(1, 5)))
    order = draw(st.permutations(memory.blocks))
    memory.blocks = [Block(**{**vars(block), "index": i}) for i, block in enumerate(order)]
    return memory, dtype


def small_memory(dtype: str = "bfloat16") -> Memory:
    """Two documents of two and three blocks at ratio 4."""
    texts = [["Ann signed it.\n", "Ben read it.\n"], ["Zoë ", "went to ", "Łódź."]]
    return make_memory(texts, [[9, 8], [4, 5, 6]], {"ratio": 4, "hidden": 4, "wrappers": "span"}, dtype)


def manifest_of(memory: Memory, dtype: str = "bfloat16", keep_text: bool = True) -> Manifest:
    return Manifest(memory.system, memory.settings, memory.fingerprint, memory.sources, memory.sha256, dtype, keep_text)


def write_some(path: Path, memory: Memory, dtype: str, count: int) -> None:
    """Write the first blocks and stop, as a killed fold does: nothing is closed or tidied up."""
    writer = MemoryWriter(path, manifest_of(memory, dtype))
    for block in itertools.islice(memory.blocks, count):
        writer.add(block)
