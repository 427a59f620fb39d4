"""A block: one chunk's share of a memory, in RAM or in a memory file.

It is imported from `memfold.core.types`, with the types that it goes with.  This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


class StoredText(Protocol):
    """The text of a block in a memory file, which is loaded on demand."""

    def read(self) -> str:
        """Read the text of the chunk from the file; the result is not cached."""
        ...


@runtime_checkable
class StoredSlots(Protocol):
    """The slots [n, d] of a block in a memory file, which are checked when they are first read."""

    @property
    def shape(self) -> Sequence[int]:
        """Number of slots, and of the values of a slot; known without reading them."""
        ...

    def check(self) -> None:
        """Check the slots, unless they were checked before.

        Raises:
            DataError: if they are not as they were written; the message names the block.
        """
        ...

    def read(self) -> Tensor:
        """Check and return the slots.

        Raises:
            DataError: as `check`.
        """
        ...


class _SlotField:
    """The field `Block.slots`: a tensor, or stored slots, which are read each time the field is."""

    def __get__(self, block: Block | None, owner: type[Block] | None = None) -> Tensor | None:
        if block is None:
            return None  # the default of the field
        held: Tensor | StoredSlots | None = vars(block)["slots"]
        return held.read() if isinstance(held, StoredSlots) else held

    def __set__(self, block: Block, value: Tensor | StoredSlots | None) -> None:
        vars(block)["slots"] = value


@dataclass(frozen=True)
class Block:
    """The part of a memory that stands for one chunk.

    `slots` has shape [n, d]; it is None for systems whose memory is the text itself.  The system defines the meaning of
    the d values of a slot, such as an embedding, or the keys and values of a position.  `slot_tokens` is the number of
    document tokens of each slot, or None if the settings of the system determine it.  A block made by folding holds
    its `text`; a block of a memory file has a reference to it (`stored`).  `read` works with both.  The slots of a
    memory file are read, and checked, by the first use of `slots`, which raises a `DataError` if they are damaged.
    """

    index: int
    source: int  # index of the document within the memory
    token_start: int
    token_end: int
    char_start: int
    char_end: int
    slots: _SlotField = _SlotField()  # a descriptor, not a value
    text: str | None = None
    slot_tokens: tuple[int, ...] | None = None
    stored: StoredText | None = field(default=None, repr=False, compare=False)

    @property
    def token_count(self) -> int:
        """Number of document tokens that the block stands for."""
        return self.token_end - self.token_start

    @property
    def slot_count(self) -> int:
        """Number of slots of the block; 0 for a block of text."""
        return self._slot_shape[0]

    @property
    def slot_size(self) -> int:
        """Number of values of a slot; 0 for a block of text."""
        return self._slot_shape[-1]

    @property
    def _slot_shape(self) -> Sequence[int]:
        held = vars(self)["slots"]
        return (0, 0) if held is None else tuple(held.shape)

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields for pickling, with a copy of the slots: a view would take the whole file with it."""
        held = vars(self)["slots"]
        copied = held if held is None or isinstance(held, StoredSlots) else held.detach().clone()
        return vars(self) | {"slots": copied}

    def read(self) -> str | None:
        """Return the text of the chunk, or None if the memory holds no text."""
        return self.stored.read() if self.text is None and self.stored is not None else self.text

    @property
    def stores_slots(self) -> bool:
        """Whether the slots are in a memory file, from which they are read and checked on demand."""
        return isinstance(vars(self)["slots"], StoredSlots)

    def check(self) -> None:
        """Check the slots that are stored in a memory file; those of other blocks need no check.

        Raises:
            DataError: if they are damaged; the message names the block.
        """
        held = vars(self)["slots"]
        if isinstance(held, StoredSlots):
            held.check()

    def moved(self, **places: int) -> Block:
        """Return the block at another place (`index`, `source`, ...), without reading stored slots."""
        changes: dict[str, Any] = {"slots": vars(self)["slots"], **places}
        return replace(self, **changes)

    def where(self, source: str) -> str:
        """Return what the block is called in messages, in the document named `source`.

        >>> Block(3, 0, 1024, 1536, 4096, 6200).where("report.txt")
        'block 3 (report.txt, characters 4,096 to 6,200)'
        """
        return f"block {self.index} ({source}, characters {self.char_start:,} to {self.char_end:,})"
