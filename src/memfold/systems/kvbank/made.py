"""Blocks that are made when they are read, of a memory that keeps only its text and the borders of its chunks.

A long bank takes orders of magnitude more room than its text: 56 MiB for a chunk of 4,096 tokens with 7 billion
parameters.  Instead of storing it, the chunks can be compressed when the gate or the reasoner needs them.  What was
made last is kept within a limit.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from memfold.core.document import Document, Tokenize
from memfold.core.errors import DataError
from memfold.core.types import Memory
from memfold.memory.slots import check_finite, dequantise, quantise, torch_type

if TYPE_CHECKING:
    from torch import Tensor

Compress = Callable[[list[Sequence[int]]], list["Tensor"]]  # the tokens of chunks -> the slots of each


class MadeBlocks:
    """The slots of the blocks of one memory that were made last.

    Blocks that are folded in one pass are made in one pass, too, so they are the same bit for bit; `pass_tokens` is
    the largest number of tokens of a pass, 0 if every chunk has its own.
    """

    def __init__(self, memory: Memory, tokenize: Tokenize, pass_tokens: int) -> None:
        self._blocks, self._sources, self._tokenize = memory.blocks, memory.sources, tokenize
        self._passes = _passes([block.token_count for block in memory.blocks], pass_tokens)
        self._tokens: dict[int, array[int]] = {}  # of each document, by its number
        self._kept: OrderedDict[int, Tensor] = OrderedDict()

    def slots(self, index: int, compress: Compress, most: float, alone: bool) -> Tensor:
        """Return the slots [n, d] of block `index`, which are made unless they are kept.

        Kept are at most `most` bytes, those used last, but never less than one pass.  With `alone`, the other blocks of
        the pass are not made.

        Raises:
            DataError: if the memory does not hold its text, or the text has other tokens than when it was folded.
        """
        if index not in self._kept:
            wanted = [index] if alone else self._passes[index]
            made = compress([self._chunk(number) for number in wanted])
            self._kept.update(zip(wanted, made, strict=True))
            for number in wanted:
                self._kept.move_to_end(number)
            self._drop(most, len(wanted))
        self._kept.move_to_end(index)
        return self._kept[index]

    def _drop(self, most: float, least: int) -> None:
        """Leave the blocks used last: at most `most` bytes, but at least `least` blocks."""
        size = sum(slots.nbytes for slots in self._kept.values())
        while size > most and len(self._kept) > least:
            size -= self._kept.popitem(last=False)[1].nbytes

    def _chunk(self, index: int) -> Sequence[int]:
        """Return the tokens of the chunk that a block stands for."""
        block = self._blocks[index]
        if block.source not in self._tokens:
            self._tokens[block.source] = self._tokens_of(block.source)
        return self._tokens[block.source][block.token_start : block.token_end].tolist()

    def _tokens_of(self, source: int) -> array[int]:
        """Return the tokens of a document, read in the pieces in which it was folded."""
        own = [block for block in self._blocks if block.source == source]
        text = "".join(block.read() or "" for block in own)
        tokens = array("i")
        for piece in Document(self._sources[source], text=text).pieces():
            tokens.extend(self._tokenize(piece)[0])
        expected = max(block.token_end for block in own)
        if len(tokens) != expected:
            raise DataError(
                f"the text of {self._sources[source]} has {len(tokens)} tokens, this memory was folded from "
                f"{expected}; fold the document again"
            )
        return tokens


def as_stored(slots: Tensor, dtype: str | None, parts: int) -> Tensor:
    """Return slots as they would be read from a memory file of a dtype; unchanged if it is None, as in RAM.

    Raises:
        DataError: if a value is not finite.
    """
    slots = slots.detach().cpu()
    if dtype == "int8":
        return dequantise(*quantise(slots, parts))
    stored = slots if dtype is None else slots.to(torch_type(dtype))
    check_finite(stored)
    return stored


def _passes(counts: Sequence[int], most: int) -> list[list[int]]:
    """Return for each chunk the numbers of those that were compressed with it, in passes of at most `most` tokens."""
    passes: list[list[int]] = []
    size = 0
    for number, count in enumerate(counts):
        if not passes or size + count > most:
            passes.append([])
            size = 0
        passes[-1].append(number)
        size += count
    return [together for together in passes for _ in together]
