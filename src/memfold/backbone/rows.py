"""The layout of batches: rendered calls as rows of token positions, for decoding, scoring and heads.

Decoding pads rows on the left, so that all of them grow at the same end (`pad`).  Scoring shares the common beginning
of rows (`pack`): the traces of a document begin with the same memory, or the same text.  The common beginning is stored
once; the rest of each row attends to it and to itself but not to other rows, and keeps the position ids that it would
have alone.  The result equals that of separate rows, at a fraction of the cost.  A row can attend to a prefix of keys
and values; rows with the same prefix share it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from memfold.backbone.masks import Visibility
from memfold.core.errors import CallError
from memfold.core.system import Prefix, Rendered
from memfold.core.types import Part, Text


@dataclass(frozen=True)
class Row:
    """One rendered call, followed by the tokens to score; without targets, only the last position is used.

    `parts` are the parts of the call, which packing compares to find the common beginning of rows.
    """

    rendered: Rendered
    parts: tuple[Part, ...] = ()
    targets: tuple[int, ...] = ()

    @property
    def tokens(self) -> list[int]:
        """Token ids of the whole sequence, with `SLOT` at slots."""
        return self.rendered.tokens + list(self.targets)

    @property
    def positions(self) -> list[int]:
        """Position ids of the whole sequence; those of the targets continue after the call."""
        positions = self.rendered.positions
        first = positions[-1] + 1 if positions else 0
        return positions + list(range(first, first + len(self.targets)))

    @property
    def end(self) -> int:
        """The position after the last one."""
        return (self.rendered.positions[-1] + 1 if self.rendered.positions else 0) + len(self.targets)

    @property
    def elements(self) -> tuple[Part, ...]:
        """The parts of the call, followed by the targets."""
        return (*self.parts, Text(tokens=self.targets))

    @property
    def lengths(self) -> tuple[int, ...]:
        """Number of token positions of each element."""
        return (*self.rendered.lengths, len(self.targets))

    def laid_out(self) -> Iterator[tuple[Part, list[int], list[int]]]:
        """Yield each element with its token ids and position ids."""
        tokens, positions, start = self.tokens, self.positions, 0
        for element, length in zip(self.elements, self.lengths, strict=True):
            yield element, tokens[start : start + length], positions[start : start + length]
            start += length


@dataclass(frozen=True)
class RowBatch:
    """Rows as tensors.

    `targets` has one (row, index before the target, token id) triple per target, in the order of rows.  `ends` has the
    (row, index) of the last position of every input row.  `prefixes` has the prefix of each row of the batch.
    """

    tokens: Tensor  # [b, t]; `SLOT` at slots, 0 at padding
    positions: Tensor  # [b, t]
    order: Tensor  # [b, t]; index of each position in its own row, without the prefix
    segments: Tensor  # [b, t]; 0: common beginning, 1, 2, ...: rest of each row, then next group; -1: padding
    slots: list[Tensor]  # in the order of their positions
    targets: Tensor  # [n, 3]
    ends: Tensor  # [m, 2]
    shared: Tensor | None = None  # [b, t]; segment that a position attends to besides its own; None: 0
    prefixes: tuple[Prefix | None, ...] = ()

    @property
    def valid(self) -> Tensor:
        """Mask [b, t] that is False at padding."""
        return self.segments >= 0

    def visibility(self) -> Visibility:
        """Return which positions attend to each other, prefixes included; padding attends to itself."""
        query, key = self.segments[:, :, None], self.segments[:, None, :]
        shared = 0 if self.shared is None else self.shared[:, :, None]
        length = self.segments.shape[1]
        itself = torch.eye(length, dtype=torch.bool, device=query.device)
        allowed = (((key == shared) | (key == query)) & (key >= 0)) | itself
        before = prefix_mask(self.prefixes or [None] * len(self.segments), query.device)
        place = before.long().cumsum(1) - 1
        return Visibility(
            order=torch.cat([place, self.order + before.sum(1, keepdim=True)], 1),
            valid=torch.cat([before, self.valid], 1),
            allowed=torch.cat([before[:, None, :].expand(-1, length, -1), allowed], 2),
        )


def prefix_mask(prefixes: Sequence[Prefix | None], device: torch.device) -> Tensor:
    """Return the mask [b, p] of prefixes, which are padded on the left; False at padding."""
    lengths = [0 if prefix is None else prefix.length for prefix in prefixes]
    longest = max(lengths, default=0)
    filled = torch.arange(longest, device=device) >= longest - torch.tensor(lengths, device=device)[:, None]
    return filled if longest else torch.zeros(len(prefixes), 0, dtype=torch.bool, device=device)


def prefix_layers(prefixes: Sequence[Prefix | None]) -> list[tuple[Tensor, Tensor]]:
    """Return the keys and values [b, heads, p, size] of each layer, padded on the left and differentiable.

    The list is empty if no row has a prefix.
    """
    first = next((prefix for prefix in prefixes if prefix is not None), None)
    if first is None:
        return []
    longest = max(prefix.length for prefix in prefixes if prefix is not None)
    return [
        (_stacked(prefixes, layer, 0, longest, keys), _stacked(prefixes, layer, 1, longest, values))
        for layer, (keys, values) in enumerate(first.layers)
    ]


def _stacked(prefixes: Sequence[Prefix | None], layer: int, which: int, longest: int, like: Tensor) -> Tensor:
    """Stack the keys (`which` 0) or values (1) of one layer for all rows."""
    heads, _, size = like.shape
    rows = []
    for prefix in prefixes:
        part = like.new_zeros(heads, 0, size) if prefix is None else prefix.layers[layer][which]
        padding = like.new_zeros(heads, longest - part.shape[1], size)
        rows.append(torch.cat([padding, part], 1))
    return torch.stack(rows)


def pad(rows: Sequence[Rendered], device: torch.device) -> RowBatch:
    """Lay out each rendered call as one row, padded on the left."""
    length = max(len(row.tokens) for row in rows)
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    positions = torch.zeros(len(rows), length, dtype=torch.long)
    order = torch.zeros(len(rows), length, dtype=torch.long)
    segments = torch.full((len(rows), length), -1, dtype=torch.long)
    for index, row in enumerate(rows):
        start = length - len(row.tokens)
        tokens[index, start:] = torch.tensor(row.tokens)
        positions[index, start:] = torch.tensor(row.positions)
        order[index, start:] = torch.arange(len(row.tokens))
        segments[index, start:] = 0
    return RowBatch(
        tokens=tokens.to(device),
        positions=positions.to(device),
        order=order.to(device),
        segments=segments.to(device),
        slots=[row.slots for row in rows if row.slots is not None],
        targets=torch.empty(0, 3, dtype=torch.long, device=device),
        ends=torch.tensor([(index, length - 1) for index in range(len(rows))], device=device),
        prefixes=tuple(row.prefix for row in rows),
    )


def pack(groups: Sequence[Sequence[Row]], device: torch.device, row_positions: int = 0) -> RowBatch:
    """Lay out each group (the rows of one document) as one row, or consecutive groups that fit into `row_positions`.

    All rows of a group have the same prefix.  Groups share a row only if they have the same prefix too.
    """
    rows: list[_PackedRow] = []
    for row in map(_PackedRow, groups):
        fits = bool(rows) and len(rows[-1].tokens) + len(row.tokens) <= row_positions
        if fits and rows[-1].prefix is row.prefix:
            rows[-1].join(row)
        else:
            rows.append(row)
    length = max(len(row.tokens) for row in rows)
    targets = [(index, before, token) for index, row in enumerate(rows) for before, token in row.targets]
    ends = [(index, end) for index, row in enumerate(rows) for end in row.ends]
    joined = len(rows) < len(groups)
    return RowBatch(
        tokens=_padded([row.tokens for row in rows], length, 0, device),
        positions=_padded([row.positions for row in rows], length, 0, device),
        order=_padded([row.order for row in rows], length, 0, device),
        segments=_padded([row.segments for row in rows], length, -1, device),
        slots=[slots for row in rows for slots in row.slots],
        targets=torch.tensor(targets, dtype=torch.long, device=device).reshape(-1, 3),
        ends=torch.tensor(ends, dtype=torch.long, device=device).reshape(-1, 2),
        shared=_padded([row.shared for row in rows], length, 0, device) if joined else None,
        prefixes=tuple(row.prefix for row in rows),
    )


class _PackedRow:
    """The common beginning of the rows of a group, followed by the rest of each row."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.prefix = rows[0].rendered.prefix
        assert all(row.rendered.prefix is self.prefix for row in rows), "the rows of a group must have the same prefix"
        common = common_positions(rows)
        self.tokens = rows[0].tokens[:common]
        self.positions = rows[0].positions[:common]
        self.order = list(range(common))
        self.segments = [0] * common
        self.slots: list[Tensor] = []
        self.targets: list[tuple[int, int]] = []
        self.ends: list[int] = []
        self._keep_slots(rows[0], 0, common)
        for number, row in enumerate(rows, start=1):
            self._append(row, common, number)
        self.shared = [0] * len(self.tokens)

    def join(self, other: _PackedRow) -> None:
        """Append the packed row of another group; the two do not attend to each other."""
        base, first = len(self.tokens), max(self.segments) + 1
        self.tokens += other.tokens
        self.positions += other.positions
        self.order += other.order
        self.segments += [first + segment for segment in other.segments]
        self.shared += [first + segment for segment in other.shared]
        self.slots += other.slots
        self.targets += [(base + before, token) for before, token in other.targets]
        self.ends += [base + end for end in other.ends]

    def _append(self, row: Row, common: int, number: int) -> None:
        tokens, base = row.tokens, len(self.tokens) - common
        first = len(tokens) - len(row.targets)
        if first == 0:
            raise CallError("policy", "a reply needs at least one token before it")
        self.tokens += tokens[common:]
        self.positions += row.positions[common:]
        self.order += range(common, len(tokens))
        self.segments += [number] * (len(tokens) - common)
        self._keep_slots(row, common, len(tokens))

        def packed_index(index: int) -> int:
            return index if index < common else index + base

        self.targets += [(packed_index(index - 1), tokens[index]) for index in range(first, len(tokens))]
        self.ends.append(packed_index(len(tokens) - 1))

    def _keep_slots(self, row: Row, start: int, end: int) -> None:
        slots = row.rendered.slots_between(start, end)
        if slots is not None:
            self.slots.append(slots)


def common_positions(rows: Sequence[Row]) -> int:
    """Return the number of positions at the beginning of rows that packing stores once."""
    return sum(rows[0].lengths[: _shared_elements(rows)])


def _shared_elements(rows: Sequence[Row]) -> int:
    """Return how many leading elements are equal in all rows, including their tokens and positions.

    The same block can have different tokens in two rows, since a system may add a wrapper token after the last block.
    """
    if len(rows) == 1:
        return 0
    columns = zip(*(row.laid_out() for row in rows), strict=False)
    return sum(1 for _ in takewhile(lambda column: all(element == column[0] for element in column), columns))


def _padded(rows: Sequence[list[int]], length: int, value: int, device: torch.device) -> Tensor:
    return torch.tensor([row + [value] * (length - len(row)) for row in rows], dtype=torch.long, device=device)
