"""Log-probabilities and head scores of recorded calls, with gradient: the one path of all training.

Given a document, it is compressed once with gradient, all its traces are scored against detached slots, and
`Scores.backward` carries the slots' gradients through the compressor in one pass; what a system makes of the slots (a
prefix of keys and values) is differentiated on the way.  Given a memory, the slots are constants.  Nothing here asks
which system it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from memfold.backbone.model import Backbone
from memfold.backbone.rows import Row, RowBatch, pack
from memfold.core.document import Document
from memfold.core.registry import AnySystem
from memfold.core.system import HeadOutput, Prefix
from memfold.core.types import Block, Call, HeadScore, Memory, Reply, Step, Trace

Scored = tuple[Document | Memory, Sequence[Trace]]


@dataclass(frozen=True)
class ScoredCall:
    """Where some log-probabilities come from: a group, a trace in it, the purpose of the call, how many there are."""

    group: int
    trace: int
    purpose: str
    count: int


@dataclass(frozen=True)
class Scores:
    """What a model makes of recorded calls.

    `logprobs` [n] are those of every trained reply token, untempered, in the order of groups, traces and steps;
    `correct` [n] tells which tokens greedy decoding would have chosen, `hidden` [n, d] is the state that each was
    predicted from, `calls` says whose they are.  `outputs` are what heads gave for the trained calls that want a score.
    `batches` are the rows of each forward pass, for auxiliary losses.
    """

    logprobs: Tensor
    correct: Tensor
    hidden: Tensor
    calls: tuple[ScoredCall, ...]
    outputs: tuple[HeadOutput, ...]
    batches: tuple[RowBatch, ...]
    slots: tuple[tuple[Tensor, Tensor], ...]  # (as compressed, detached) for each block that has a gradient

    def parts(self) -> list[tuple[ScoredCall, Tensor, Tensor]]:
        """Each call that wants likelihood with its log-probabilities and its correctness."""
        counts = [call.count for call in self.calls]
        return list(zip(self.calls, self.logprobs.split(counts), self.correct.split(counts), strict=True))

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of `loss` in the decoder and, through the slots, in the compressor."""
        loss.backward()
        reached = [(slots, leaf.grad) for slots, leaf in self.slots if leaf.grad is not None]
        if reached:
            torch.autograd.backward([slots for slots, _ in reached], [grad for _, grad in reached])


@dataclass(frozen=True)
class RowScores:
    """What one row came to: log-probabilities [n], correctness [n] and states [n, d] of its targets, its last state."""

    logprobs: Tensor
    correct: Tensor
    hidden: Tensor
    last: Tensor


@dataclass(frozen=True)
class _Line:
    """A trained step of a trace, rendered."""

    group: int
    number: int
    trace: Trace
    step: Step
    row: Row

    @property
    def head(self) -> str | None:
        """The head whose score the call wants; None for one that wants likelihood."""
        wants = self.step.call.wants
        return wants.head if isinstance(wants, HeadScore) else None

    @property
    def scored(self) -> ScoredCall:
        """As `Scores` lists it."""
        return ScoredCall(self.group, self.number, self.step.call.purpose, len(self.step.reply.tokens))


def logprobs(
    backbone: Backbone, system: AnySystem, scored: Sequence[Scored], folded: bool = False, row_positions: int = 0
) -> Scores:
    """Score the trained steps of traces, grouped by the document or memory that they are about.

    With `folded` documents too are compressed into constants.  Documents whose traces take few token positions share a
    row of at most `row_positions`.
    """
    with torch.set_grad_enabled(torch.is_grad_enabled() and not folded):
        memories, slots = _memories(backbone, system, [about for about, _ in scored])
    lines = [
        _Line(group, number, trace, step, row_of(system, memory, step.call, step.reply, backbone))
        for group, (memory, (_, traces)) in enumerate(zip(memories, scored, strict=True))
        for number, trace in enumerate(traces)
        for step in trace.steps
        if step.call.trained
    ]
    rows, groups = [line.row for line in lines], [line.group for line in lines]
    results, batches = score_rows(backbone, rows, groups, row_positions)
    written = [(line, result) for line, result in zip(lines, results, strict=True) if line.head is None]
    outputs = tuple(
        HeadOutput(line.trace, line.step, backbone.head_score(line.head, result.last))
        for line, result in zip(lines, results, strict=True)
        if line.head is not None
    )
    kept = [result for _, result in written]
    empty = torch.zeros(0, device=backbone.device)
    return Scores(
        logprobs=torch.cat([result.logprobs for result in kept]) if kept else empty,
        correct=torch.cat([result.correct for result in kept]) if kept else empty.bool(),
        hidden=torch.cat([result.hidden for result in kept]) if kept else empty.reshape(0, backbone.hidden_size),
        calls=tuple(line.scored for line, _ in written),
        outputs=outputs,
        batches=batches,
        slots=slots,
    )


def row_of(system: AnySystem, memory: Memory, call: Call, reply: Reply, backbone: Backbone) -> Row:
    """A call as a row, with the tokens of its reply as targets; a call that wants a head's score has none."""
    return Row(system.render(memory, call, backbone), call.parts, reply.tokens)


def score_rows(
    backbone: Backbone, rows: Sequence[Row], groups: Sequence[int], row_positions: int = 0
) -> tuple[list[RowScores], tuple[RowBatch, ...]]:
    """What each row came to, in their order, and the batches that were run: those of one adapter together.

    Rows of the same group are packed together where they are read behind the same prefix.
    """
    results: list[RowScores | None] = [None] * len(rows)
    batches = []
    for adapter in dict.fromkeys(row.rendered.adapter for row in rows):
        packed: dict[tuple[int, Prefix | None], list[int]] = {}
        for index, (row, group) in enumerate(zip(rows, groups, strict=True)):
            if row.rendered.adapter == adapter:
                packed.setdefault((group, row.rendered.prefix), []).append(index)
        batch = pack([[rows[index] for index in own] for own in packed.values()], backbone.device, row_positions)
        with backbone.adapter(adapter):
            own = _run(backbone, batch, [len(rows[index].targets) for indices in packed.values() for index in indices])
        for index, result in zip((index for indices in packed.values() for index in indices), own, strict=True):
            results[index] = result
        batches.append(batch)
    return [result for result in results if result is not None], tuple(batches)


def _run(backbone: Backbone, batch: RowBatch, counts: Sequence[int]) -> list[RowScores]:
    """One forward pass; `counts` are the targets of each row that went into the batch."""
    embeddings = backbone.embed_rows(batch.tokens, batch.slots)
    hidden = backbone.hidden(embeddings, batch.positions, batch.mask(), batch.prefixes)
    row, before, token = batch.targets.unbind(1)
    states = hidden[row, before]
    table = backbone.logits(states).float().log_softmax(-1)
    chosen, correct = table.gather(1, token[:, None])[:, 0], table.detach().argmax(1) == token
    ends = hidden[batch.ends[:, 0], batch.ends[:, 1]]
    split = list(counts)
    parts = zip(chosen.split(split), correct.split(split), states.split(split), ends, strict=True)
    return [RowScores(*part) for part in parts]


def _memories(
    backbone: Backbone, system: AnySystem, abouts: Sequence[Document | Memory]
) -> tuple[list[Memory], tuple[tuple[Tensor, Tensor], ...]]:
    """A memory for each entry; documents are compressed together, their slots detached into leaves."""
    documents = [about for about in abouts if isinstance(about, Document)]
    blocks: list[list[Block]] = [[] for _ in documents]
    pairs: list[tuple[Tensor, Tensor]] = []
    for block in system.compress(documents, backbone) if documents else ():
        if block.slots is not None and block.slots.requires_grad:
            leaf = block.slots.detach().requires_grad_()
            pairs.append((block.slots, leaf))
            block = replace(block, slots=leaf)
        blocks[block.source].append(replace(block, source=0))
    compressed = iter(zip(documents, blocks, strict=True))
    memories = []
    for about in abouts:
        if isinstance(about, Memory):
            memories.append(replace(about, blocks=[_constant(block) for block in about.blocks]))
            continue
        document, own = next(compressed)
        memories.append(Memory(document.source, system.name, system.settings, "", (document.source,), own))
    return memories, tuple(pairs)


def _constant(block: Block) -> Block:
    """The block without the history of its slots."""
    tracked = block.slots is not None and block.slots.requires_grad
    return replace(block, slots=block.slots.detach()) if tracked and block.slots is not None else block
