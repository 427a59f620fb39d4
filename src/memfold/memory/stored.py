"""What a block of a memory file reads on demand: its text, which is decompressed, and its slots, which are checked.

Both are ranges of the mapped file, and copies of their bytes if the memory was pickled.
"""

from __future__ import annotations

import mmap
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memfold.core.errors import DataError
from memfold.memory.slots import checksum, dequantise, is_finite

if TYPE_CHECKING:
    from torch import Tensor

ALTERED = "after it was written; fold the document again"


@dataclass(frozen=True)
class StoredSegment:
    """The compressed text of one block: a range of a mapped file, or its bytes if the memory was pickled."""

    path: Path
    mapped: mmap.mmap | bytes
    start: int
    end: int
    characters: int

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields for pickling, with the bytes of the text instead of the mapped file."""
        data = bytes(self.mapped[self.start : self.end])
        return vars(self) | {"mapped": data, "start": 0, "end": len(data)}

    def read(self) -> str:
        """Decompress and return the text; it is not cached.

        Raises:
            DataError: if its length differs from the block table.
        """
        engine = zlib.decompressobj()
        try:
            text = engine.decompress(self.mapped[self.start : self.end], 4 * self.characters + 1).decode()
        except (zlib.error, UnicodeDecodeError):
            text = ""
        if len(text) != self.characters:
            raise DataError(
                f"{self.path}: the text of a block does not have the {self.characters} characters of its table; it "
                f"was altered {ALTERED}"
            )
        return text


class StoredSlots:
    """The slots [n, d] of one block as they are stored, with their `scales` if the file is in int8.

    They are checked when they are first read: against their `checksum`, if the file has one, and for values that are
    not finite.  `where` says which block it is, in messages.
    """

    def __init__(self, slots: Tensor, scales: Tensor | None, checksum: int | None, path: Path, where: str) -> None:
        self._slots, self._scales, self._checksum = slots, scales, checksum
        self._path, self._where = path, where
        self._problem: str | None = None
        self._is_checked = False

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields for pickling, with copies of the tensors: a view would take the whole file with it."""
        scales = None if self._scales is None else self._scales.clone()
        return vars(self) | {"_slots": self._slots.clone(), "_scales": scales}

    @property
    def shape(self) -> tuple[int, int]:
        """Number of slots, and of the values of each."""
        count, size = self._slots.shape
        return count, size

    def check(self) -> None:
        """Check the slots, unless they were checked before.

        Raises:
            DataError: if they are not as they were written, or not finite.
        """
        if not self._is_checked:
            self._problem, self._is_checked = self._find_problem(), True
        if self._problem is not None:
            raise DataError(f"{self._path}: the slots of {self._where} {self._problem}")

    def read(self) -> Tensor:
        """Check and return the slots: a view of the file, or a copy in float32 of those in int8.

        Raises:
            DataError: as `check`.
        """
        self.check()
        return self._slots if self._scales is None else dequantise(self._slots, self._scales)

    def _find_problem(self) -> str | None:
        scales = b"" if self._scales is None else _bytes(self._scales)
        if self._checksum is not None and checksum(_bytes(self._slots), scales) != self._checksum:
            return "were altered after they were written; fold the document again"
        if not is_finite(self._slots if self._scales is None else dequantise(self._slots, self._scales)):
            return "are not finite (NaN or infinity); fold the document again"
        return None


def _bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor without a copy."""
    import torch

    data: Any = tensor.flatten().view(torch.uint8).numpy()
    return memoryview(data)
