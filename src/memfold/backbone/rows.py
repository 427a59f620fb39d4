"""The layout of a batch: rendered calls as rows of token positions, for decoding, for scoring and for heads alike.

Decoding pads rows on the left, so that they all grow at the same end (`pad`).  Scoring shares what rows have in common
(`pack`): the traces of a document begin with the same memory, or the same text; that beginning is laid down once, and
the rest of each row attends to it and to itself, never to its neighbours, at the positions it would have alone.  The
result is that of separate rows, at a fraction of the cost.  A row may be read behind a prefix of keys and values; rows
behind the same prefix share it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from memfold.core.errors import CallError
from memfold.core.system import SLOT, Prefix, Rendered
from memfold.core.types import Part, Text


@dataclass(frozen=True)
class Row:
    """One rendered call with the tokens that are scored at its end (none: only its last position is wanted).

    `parts` are those of the call: rows are compared by them where they are packed.
    """

    rendered: Rendered
    parts: tuple[Part, ...] = ()
    targets: tuple[int, ...] = ()

    @property
    def tokens(self) -> list[int]:
        """The whole sequence, `SLOT` at slots."""
        return self.rendered.tokens + list(self.targets)

    @property
    def positions(self) -> list[int]:
        """Of the whole sequence; those of the targets follow the call's last."""
        positions = self.rendered.positions
        first = positions[-1] + 1 if positions else 0
        return positions + list(range(first, first + len(self.targets)))

    @property
    def elements(self) -> tuple[Part, ...]:
        """The parts of the call, and the targets."""
        return (*self.parts, Text(tokens=self.targets))

    @property
    def lengths(self) -> tuple[int, ...]:
        """Token positions of each element."""
        return (*self.rendered.lengths, len(self.targets))

    def laid_out(self) -> Iterator[tuple[Part, list[int], list[int]]]:
        """Each element with its tokens and their positions."""
        tokens, positions, start = self.tokens, self.positions, 0
        for element, length in zip(self.elements, self.lengths, strict=True):
            yield element, tokens[start : start + length], positions[start : start + length]
            start += length


@dataclass(frozen=True)
class RowBatch:
    """Rows as tensors.

    `targets` are (row, index before the target, token) for every target, row by row; `ends` (row, index) of the last
    position of every row that went in.  `prefixes` holds what each row of the batch is read behind.
    """

    tokens: Tensor  # [b, t], SLOT at slots, 0 at padding
    positions: Tensor  # [b, t]
    segments: Tensor  # [b, t]: 0 the shared beginning, 1... the rest of each row, the next group's after; -1 padding
    slots: list[Tensor]  # in the order of their positions
    targets: Tensor  # [n, 3]
    ends: Tensor  # [m, 2]
    shared: Tensor | None = None  # [b, t]: the segment that each position reads beside its own; None: 0
    prefixes: tuple[Prefix | None, ...] = ()

    @property
    def valid(self) -> Tensor:
        """[b, t], True where there is no padding."""
        return self.segments >= 0

    def mask(self) -> Tensor:
        """[b, 1, t, p + t], True where the row's position may read the column's; padding reads itself."""
        query, key = self.segments[:, :, None], self.segments[:, None, :]
        shared = 0 if self.shared is None else self.shared[:, :, None]
        length = self.segments.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
        allowed = causal & ((key == shared) | (key == query)) & (key >= 0)
        allowed = allowed | torch.eye(length, dtype=torch.bool, device=query.device)
        before = prefix_mask(self.prefixes, query.device)
        if before.shape[1]:
            allowed = torch.cat([before[:, None, :].expand(-1, length, -1), allowed], 2)
        return allowed[:, None]


def prefix_mask(prefixes: Sequence[Prefix | None], device: torch.device) -> Tensor:
    """[b, p], True where a row has a prefix; prefixes are padded on the left."""
    lengths = [0 if prefix is None else prefix.length for prefix in prefixes]
    longest = max(lengths, default=0)
    filled = torch.arange(longest, device=device) >= longest - torch.tensor(lengths, device=device)[:, None]
    return filled if longest else torch.zeros(len(prefixes), 0, dtype=torch.bool, device=device)


def prefix_layers(prefixes: Sequence[Prefix | None]) -> list[tuple[Tensor, Tensor]]:
    """Keys and values [b, heads, p, size] of each layer, prefixes padded on the left; differentiable.

    Empty where no row has one.
    """
    given = next((prefix for prefix in prefixes if prefix is not None), None)
    if given is None:
        return []
    longest = max(prefix.length for prefix in prefixes if prefix is not None)
    return [
        (_stacked(prefixes, layer, 0, longest, keys), _stacked(prefixes, layer, 1, longest, values))
        for layer, (keys, values) in enumerate(given.layers)
    ]


def _stacked(prefixes: Sequence[Prefix | None], layer: int, which: int, longest: int, like: Tensor) -> Tensor:
    """The keys (0) or values (1) of one layer for all rows."""
    heads, _, size = like.shape
    rows = []
    for prefix in prefixes:
        part = like.new_zeros(heads, 0, size) if prefix is None else prefix.layers[layer][which]
        padding = like.new_zeros(heads, longest - part.shape[1], size)
        rows.append(torch.cat([padding, part], 1))
    return torch.stack(rows)


def pad(rows: Sequence[Rendered], device: torch.device) -> RowBatch:
    """One row for each rendered call, padded on the left."""
    length = max(len(row.tokens) for row in rows)
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    positions = torch.zeros(len(rows), length, dtype=torch.long)
    segments = torch.full((len(rows), length), -1, dtype=torch.long)
    for index, row in enumerate(rows):
        start = length - len(row.tokens)
        tokens[index, start:] = torch.tensor(row.tokens)
        positions[index, start:] = torch.tensor(row.positions)
        segments[index, start:] = 0
    return RowBatch(
        tokens=tokens.to(device),
        positions=positions.to(device),
        segments=segments.to(device),
        slots=[row.slots for row in rows if row.slots is not None],
        targets=torch.empty(0, 3, dtype=torch.long, device=device),
        ends=torch.tensor([(index, length - 1) for index in range(len(rows))], device=device),
        prefixes=tuple(row.prefix for row in rows),
    )


def pack(groups: Sequence[Sequence[Row]], device: torch.device, row_positions: int = 0) -> RowBatch:
    """One row for each group (the rows of one document), or for as many in their order as fit into `row_positions`.

    The rows of a group are read behind the same prefix; groups share a row only where they are too.
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
        segments=_padded([row.segments for row in rows], length, -1, device),
        slots=[slots for row in rows for slots in row.slots],
        targets=torch.tensor(targets, dtype=torch.long, device=device).reshape(-1, 3),
        ends=torch.tensor(ends, dtype=torch.long, device=device).reshape(-1, 2),
        shared=_padded([row.shared for row in rows], length, 0, device) if joined else None,
        prefixes=tuple(row.prefix for row in rows),
    )


class _PackedRow:
    """The shared beginning of the rows of a group, then the rest of each."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.prefix = rows[0].rendered.prefix
        assert all(row.rendered.prefix is self.prefix for row in rows), "the rows of a group have one prefix"
        common = sum(rows[0].lengths[: _shared_elements(rows)])
        self.tokens = rows[0].tokens[:common]
        self.positions = rows[0].positions[:common]
        self.segments = [0] * common
        self.slots: list[Tensor] = []
        self.targets: list[tuple[int, int]] = []
        self.ends: list[int] = []
        self._keep_slots(rows[0], 0, common)
        for number, row in enumerate(rows, start=1):
            self._append(row, common, number)
        self.shared = [0] * len(self.tokens)

    def join(self, other: _PackedRow) -> None:
        """Put the row of another group behind this one; neither reads the other."""
        base, first = len(self.tokens), max(self.segments) + 1
        self.tokens += other.tokens
        self.positions += other.positions
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
        self.segments += [number] * (len(tokens) - common)
        self._keep_slots(row, common, len(tokens))

        def placed(index: int) -> int:
            return index if index < common else index + base

        self.targets += [(placed(index - 1), tokens[index]) for index in range(first, len(tokens))]
        self.ends.append(placed(len(tokens) - 1))

    def _keep_slots(self, row: Row, start: int, end: int) -> None:
        if row.rendered.slots is None:
            return
        skipped = row.tokens[:start].count(SLOT)
        count = row.tokens[start:end].count(SLOT)
        if count:
            self.slots.append(row.rendered.slots[skipped : skipped + count])


def _shared_elements(rows: Sequence[Row]) -> int:
    """How many elements all rows begin with, laid out alike (a system may close its memory after the last block)."""
    if len(rows) == 1:
        return 0
    columns = zip(*(row.laid_out() for row in rows), strict=False)
    return sum(1 for _ in takewhile(lambda column: all(element == column[0] for element in column), columns))


def _padded(rows: Sequence[list[int]], length: int, value: int, device: torch.device) -> Tensor:
    return torch.tensor([row + [value] * (length - len(row)) for row in rows], dtype=torch.long, device=device)
