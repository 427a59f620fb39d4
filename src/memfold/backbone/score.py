"""Log-probabilities and head scores of recorded calls, with gradients; all training uses this module.

A document is compressed once with gradients, and all its traces are scored against detached slots.  `Scores.backward`
then propagates the gradients of the slots through the compressor in one pass.  This includes the gradients through
anything that a system computes from the slots, such as a prefix of keys and values.  The slots of a memory are
constants.  Nothing here depends on a particular system.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from memfold.backbone.model import Backbone
from memfold.backbone.rows import Row, RowBatch, common_positions, pack
from memfold.core.document import Document
from memfold.core.registry import AnySystem
from memfold.core.system import HeadOutput, Prefix
from memfold.core.types import Block, Call, HeadScore, Memory, Reply, Step, Trace

SHORT = 2048  # positions of a packed row whose attention costs little beside the rest
Scored = tuple[Document | Memory, Sequence[Trace]]


@dataclass(frozen=True)
class ScoredCall:
    """The call that `count` consecutive log-probabilities belong to: its group, its trace in the group, its purpose."""

    group: int
    trace: int
    purpose: str
    count: int


@dataclass(frozen=True)
class Scores:
    """The results of scoring recorded calls.

    `logprobs` [n] has the log-probability of every trained reply token, before temperature, in the order of groups,
    traces and steps.  `correct` [n] tells whether greedy decoding would have selected the token.  `hidden` [n, d] is
    the hidden state that predicts the token.  `calls` lists the calls that the tokens belong to.  `outputs` has the
    head outputs of the trained calls that request a score.  `batches` has the rows of each forward pass, for auxiliary
    losses.
    """

    logprobs: Tensor
    correct: Tensor
    hidden: Tensor
    calls: tuple[ScoredCall, ...]
    outputs: tuple[HeadOutput, ...]
    batches: tuple[RowBatch, ...]
    slots: tuple[tuple[Tensor, Tensor], ...]  # (attached, detached) per block with gradients

    def parts(self) -> list[tuple[ScoredCall, Tensor, Tensor]]:
        """Return each scored call with the log-probabilities and the correctness of its tokens."""
        counts = [call.count for call in self.calls]
        return list(zip(self.calls, self.logprobs.split(counts), self.correct.split(counts), strict=True))

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of `loss` in the decoder and, through the slots, in the compressor."""
        loss.backward()
        pairs = [(slots, leaf.grad) for slots, leaf in self.slots if leaf.grad is not None]
        if pairs:
            torch.autograd.backward([slots for slots, _ in pairs], [grad for _, grad in pairs])


@dataclass(frozen=True)
class RowScores:
    """The scores of one row.

    `logprobs` [n], `correct` [n] and `hidden` [n, d] are those of its targets (see `Scores`); `last` [d] is its last
    hidden state.
    """

    logprobs: Tensor
    correct: Tensor
    hidden: Tensor
    last: Tensor


@dataclass(frozen=True)
class _ScoredStep:
    """A trained step of a trace, with its rendered row."""

    group: int
    index: int  # index of the trace in its group
    trace: Trace
    step: Step
    row: Row

    @property
    def head(self) -> str | None:
        """Name of the head that the call requests a score from; None if it requests log-probabilities."""
        wants = self.step.call.wants
        return wants.head if isinstance(wants, HeadScore) else None

    @property
    def scored(self) -> ScoredCall:
        """The entry of the call in `Scores.calls`."""
        return ScoredCall(self.group, self.index, self.step.call.purpose, len(self.step.reply.tokens))


def logprobs(
    backbone: Backbone, system: AnySystem, scored: Sequence[Scored], folded: bool = False, row_positions: int = 0
) -> Scores:
    """Score the trained steps of traces, which are grouped by the document or memory that they are about.

    If `folded` is set, documents are compressed without gradients, like a memory.  Documents whose traces are short
    share a row of at most `row_positions` token positions.
    """
    with torch.set_grad_enabled(torch.is_grad_enabled() and not folded):
        memories, slots = _memories(backbone, system, [subject for subject, _ in scored])
    steps = [
        _ScoredStep(group, index, trace, step, row_of(system, memory, step.call, step.reply, backbone))
        for group, (memory, (_, traces)) in enumerate(zip(memories, scored, strict=True))
        for index, trace in enumerate(traces)
        for step in trace.steps
        if step.call.trained
    ]
    rows, groups = [step.row for step in steps], [step.group for step in steps]
    results, batches = score_rows(backbone, rows, groups, row_positions)
    replies = [(step, result) for step, result in zip(steps, results, strict=True) if step.head is None]
    outputs = tuple(
        HeadOutput(step.trace, step.step, backbone.head_score(step.head, result.last))
        for step, result in zip(steps, results, strict=True)
        if step.head is not None
    )
    kept = [result for _, result in replies]
    empty = torch.zeros(0, device=backbone.device)
    return Scores(
        logprobs=torch.cat([result.logprobs for result in kept]) if kept else empty,
        correct=torch.cat([result.correct for result in kept]) if kept else empty.bool(),
        hidden=torch.cat([result.hidden for result in kept]) if kept else empty.reshape(0, backbone.hidden_size),
        calls=tuple(step.scored for step, _ in replies),
        outputs=outputs,
        batches=batches,
        slots=slots,
    )


def row_of(system: AnySystem, memory: Memory, call: Call, reply: Reply, backbone: Backbone) -> Row:
    """Return a call as a row, with the tokens of its reply as targets; a call that requests a score has none."""
    return Row(system.render(memory, call, backbone), call.parts, reply.tokens)


def score_rows(
    backbone: Backbone, rows: Sequence[Row], groups: Sequence[int], row_positions: int = 0
) -> tuple[list[RowScores], tuple[RowBatch, ...]]:
    """Return the scores of each row, in order, and the batches that were run: one per adapter and rotary table.

    Rows of the same group are packed together if they have the same prefix, the architecture allows it, and it costs no
    more than rows of their own.
    """
    results: list[RowScores | None] = [None] * len(rows)
    batches = []
    if backbone.fit.rows != "packed":
        groups, row_positions = range(len(rows)), 0
    kinds = [(row.rendered.adapter, backbone.is_long(row.end)) for row in rows]
    for adapter, is_long in dict.fromkeys(kinds):
        packed: dict[tuple[int, Prefix | None], list[int]] = {}
        for index, (row, group) in enumerate(zip(rows, groups, strict=True)):
            if kinds[index] == (adapter, is_long):
                packed.setdefault((group, row.rendered.prefix), []).append(index)
        parts = [part for indices in packed.values() for part in _parts(rows, indices)]
        order = [index for part in parts for index in part]
        batch = pack([[rows[index] for index in part] for part in parts], backbone.device, row_positions)
        with backbone.adapter(adapter):
            scores = _run(backbone, batch, [len(rows[index].targets) for index in order])
        for index, result in zip(order, scores, strict=True):
            results[index] = result
        batches.append(batch)
    return [result for result in results if result is not None], tuple(batches)


def _parts(rows: Sequence[Row], indices: list[int]) -> list[list[int]]:
    """Return the rows of a group that are packed together: all, or each alone.

    The cost of attention grows with the square of the length, also for what does not attend to each other.  A long
    packed row is worth it only if the rows share more than half of what they read, such as a text; calls with a note of
    their own do not.
    """
    common = common_positions([rows[index] for index in indices])
    own = sum(len(rows[index].tokens) - common for index in indices)
    worth = common + own <= SHORT or common >= own / len(indices)
    return [indices] if worth else [[index] for index in indices]


def _run(backbone: Backbone, batch: RowBatch, counts: Sequence[int]) -> list[RowScores]:
    """Run one forward pass; `counts` has the number of targets of each input row."""
    hidden = backbone.read(batch)
    row, before, token = batch.targets.unbind(1)
    states = hidden[row, before]
    log_softmax = backbone.logits(states).float().log_softmax(-1)
    logprobs, correct = log_softmax.gather(1, token[:, None])[:, 0], log_softmax.detach().argmax(1) == token
    ends = hidden[batch.ends[:, 0], batch.ends[:, 1]]
    split = list(counts)
    parts = zip(logprobs.split(split), correct.split(split), states.split(split), ends, strict=True)
    return [RowScores(*part) for part in parts]


def _memories(
    backbone: Backbone, system: AnySystem, subjects: Sequence[Document | Memory]
) -> tuple[list[Memory], tuple[tuple[Tensor, Tensor], ...]]:
    """Return a memory per entry, and (attached, detached) pairs of slots.

    Documents are compressed together.  Slots that require gradients are replaced by detached leaves.
    """
    documents = [subject for subject in subjects if isinstance(subject, Document)]
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
    for subject in subjects:
        if isinstance(subject, Memory):
            memories.append(replace(subject, blocks=[_detached(block) for block in subject.blocks]))
            continue
        document, document_blocks = next(compressed)
        memory = Memory(document.source, system.name, system.settings, "", (document.source,), document_blocks)
        memories.append(memory)
    return memories, tuple(pairs)


def _detached(block: Block) -> Block:
    """Return the block with its slots detached from the graph."""
    tracked = block.slots is not None and block.slots.requires_grad
    return replace(block, slots=block.slots.detach()) if tracked and block.slots is not None else block
