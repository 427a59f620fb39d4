"""Rows for a forward pass: many sequences of one document share their common beginning once.

The traces of a document begin with the same memory (or the same text).  That beginning is laid down once and each
trace's rest attends to it and to itself, never to its neighbours, at the positions it would have alone: the result is
that of separate rows, at a fraction of the cost.  Several short documents may share a row in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from memfold.core.errors import CallError
from memfold.core.system import SLOT, Inputs
from memfold.core.types import Part, Reply, Text


@dataclass(frozen=True)
class Line:
    """One call with its reply: a sequence with targets at its end.  `elements` tell where sequences are equal."""

    inputs: Inputs
    elements: tuple[Part, ...]
    reply: tuple[int, ...]

    @classmethod
    def of(cls, inputs: Inputs, parts: Sequence[Part], reply: Reply) -> Line:
        """The line of a rendered call; a `CallError` where it stands on a key/value prefix."""
        if inputs.key_values is not None:
            raise CallError("policy", "log-probabilities over a key/value prefix are not supported")
        return cls(inputs, (*parts, Text(tokens=reply.tokens)), reply.tokens)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Places of each element."""
        return (*self.inputs.lengths, len(self.reply))

    @property
    def tokens(self) -> list[int]:
        """The whole sequence, `SLOT` at slots."""
        return self.inputs.tokens + list(self.reply)

    @property
    def positions(self) -> list[int]:
        """Of the whole sequence; a reply's follow the call's last."""
        following = self.inputs.positions[-1] + 1 if self.inputs.positions else 0
        return self.inputs.positions + list(range(following, following + len(self.reply)))

    def rendered(self) -> Iterator[tuple[Part, list[int], list[int]]]:
        """Each element with its tokens and their positions."""
        tokens, positions, start = self.tokens, self.positions, 0
        for element, length in zip(self.elements, self.lengths, strict=True):
            yield element, tokens[start : start + length], positions[start : start + length]
            start += length


@dataclass(frozen=True)
class Packed:
    """A batch of rows.  `targets` are (row, place before the target, token) for every reply token, line by line."""

    tokens: Tensor  # [b, t], SLOT at slots, 0 at padding
    positions: Tensor  # [b, t]
    segments: Tensor  # [b, t]: 0 shared beginning, 1... each line's rest, the next document's after; -1 padding
    slots: list[Tensor]  # in the order of their places
    targets: Tensor  # [n, 3]
    shared: Tensor | None = None  # [b, t]: the segment that each place reads beside its own; None: 0

    def mask(self) -> Tensor:
        """[b, 1, t, t], True where the row's place may read the column's; padding reads itself."""
        query, key = self.segments[:, :, None], self.segments[:, None, :]
        shared = 0 if self.shared is None else self.shared[:, :, None]
        length = self.segments.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
        allowed = causal & ((key == shared) | (key == query)) & (key >= 0)
        return (allowed | torch.eye(length, dtype=torch.bool, device=query.device))[:, None]


def pack(groups: Sequence[Sequence[Line]], device: torch.device, places: int = 0) -> Packed:
    """One row for each group of lines (those of one document), or for as many in their order as fit into `places`."""
    rows: list[_Row] = []
    for row in map(_Row, groups):
        if rows and len(rows[-1].tokens) + len(row.tokens) <= places:
            rows[-1].join(row)
        else:
            rows.append(row)
    length = max(len(row.tokens) for row in rows)
    targets = [(index, place, token) for index, row in enumerate(rows) for place, token in row.targets]
    return Packed(
        tokens=_pad([row.tokens for row in rows], length, 0, device),
        positions=_pad([row.positions for row in rows], length, 0, device),
        segments=_pad([row.segments for row in rows], length, -1, device),
        slots=[slots for row in rows for slots in row.slots],
        targets=torch.tensor(targets, dtype=torch.long, device=device).reshape(-1, 3),
        shared=_pad([row.shared for row in rows], length, 0, device) if len(rows) < len(groups) else None,
    )


class _Row:
    """The shared beginning of some lines, then the rest of each."""

    def __init__(self, lines: Sequence[Line]) -> None:
        shared = _shared_elements(lines)
        common = sum(lines[0].lengths[:shared])
        self.tokens = lines[0].tokens[:common]
        self.positions = lines[0].positions[:common]
        self.segments = [0] * common
        self.slots: list[Tensor] = []
        self.targets: list[tuple[int, int]] = []
        self._keep_slots(lines[0], 0, common)
        for number, line in enumerate(lines, start=1):
            self._append(line, common, number)

        self.shared = [0] * len(self.tokens)

    def join(self, other: _Row) -> None:
        """Put the row of another document behind this one; neither reads the other."""
        base, first = len(self.tokens), max(self.segments) + 1
        self.tokens += other.tokens
        self.positions += other.positions
        self.segments += [first + segment for segment in other.segments]
        self.shared += [first + segment for segment in other.shared]
        self.slots += other.slots
        self.targets += [(base + place, token) for place, token in other.targets]

    def _append(self, line: Line, common: int, number: int) -> None:
        tokens, base = line.tokens, len(self.tokens) - common
        first = len(tokens) - len(line.reply)
        if first == 0:
            raise CallError("policy", "a reply needs at least one token before it")
        self.tokens += tokens[common:]
        self.positions += line.positions[common:]
        self.segments += [number] * (len(tokens) - common)
        self._keep_slots(line, common, len(tokens))
        for place in range(first, len(tokens)):
            before = place - 1 if place - 1 < common else place - 1 + base
            self.targets.append((before, tokens[place]))

    def _keep_slots(self, line: Line, start: int, end: int) -> None:
        if line.inputs.slots is None:
            return
        skipped = line.tokens[:start].count(SLOT)
        count = line.tokens[start:end].count(SLOT)
        if count:
            self.slots.append(line.inputs.slots[skipped : skipped + count])


def _shared_elements(lines: Sequence[Line]) -> int:
    """How many elements all lines begin with, laid out alike (a system may close its memory after the last block)."""
    if len(lines) == 1:
        return 0
    rendered = [line.rendered() for line in lines]
    columns = zip(*rendered, strict=False)
    return sum(1 for _ in takewhile(lambda column: all(other == column[0] for other in column), columns))


def _pad(rows: Sequence[list[int]], length: int, value: int, device: torch.device) -> Tensor:
    return torch.tensor([row + [value] * (length - len(row)) for row in rows], dtype=torch.long, device=device)
