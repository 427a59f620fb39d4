"""Log-probabilities of recorded replies, with gradient: the one path of supervised training and reinforcement learning.

Given a document, it is compressed once with gradient, all its traces are scored against detached slots, and
`Scores.backward` carries the slots' gradients through the compressor in one pass.  Given a memory, the slots are
constants.  Nothing here asks which system it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from memfold.backbone.model import Backbone
from memfold.backbone.packing import Line, Packed, pack
from memfold.core.document import Document
from memfold.core.system import MemorySystem
from memfold.core.types import Block, Memory, Trace

Scored = tuple[Document | Memory, Sequence[Trace]]


@dataclass(frozen=True)
class Stretch:
    """Where some log-probabilities come from: a group, a trace in it, and the purpose of the call."""

    group: int
    trace: int
    purpose: str
    count: int


@dataclass(frozen=True)
class Scores:
    """`logprobs` [n] of every trained reply token, untempered, in the order of groups, traces and steps.

    `correct` [n] tells which tokens greedy decoding would have chosen; `stretches` says whose they are; `packed` and
    `hidden` [b, t, d] serve auxiliary losses.
    """

    logprobs: Tensor
    correct: Tensor
    stretches: tuple[Stretch, ...]
    packed: Packed
    hidden: Tensor
    slots: tuple[tuple[Tensor, Tensor], ...]  # (as compressed, detached) for each block that has a gradient

    def parts(self) -> list[tuple[Stretch, Tensor, Tensor]]:
        """Each stretch with its log-probabilities and its correctness."""
        counts = [stretch.count for stretch in self.stretches]
        return list(zip(self.stretches, self.logprobs.split(counts), self.correct.split(counts), strict=True))

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of `loss` in the decoder and, through the slots, in the compressor."""
        loss.backward()
        reached = [(slots, leaf.grad) for slots, leaf in self.slots if leaf.grad is not None]
        if reached:
            torch.autograd.backward([slots for slots, _ in reached], [grad for _, grad in reached])


def logprobs(backbone: Backbone, system: MemorySystem, scored: Sequence[Scored], folded: bool = False,
             row_places: int = 0) -> Scores:  # fmt: skip
    """Score the trained steps of traces, grouped by the document or memory that they are about.

    With `folded` documents too are compressed into constants.  Documents whose traces take few places share a row of
    at most `row_places`.
    """
    with torch.set_grad_enabled(torch.is_grad_enabled() and not folded):
        memories, slots = _memories(backbone, system, [about for about, _ in scored])
    groups: list[list[Line]] = []
    stretches: list[Stretch] = []
    for group, (memory, (_, traces)) in enumerate(zip(memories, scored, strict=True)):
        groups.append([])
        for number, trace in enumerate(traces):
            for step in (step for step in trace.steps if step.call.trained):
                inputs = system.render(memory, step.call, backbone)
                groups[group].append(Line.of(inputs, step.call.parts, step.reply))
                stretches.append(Stretch(group, number, step.call.purpose, len(step.reply.tokens)))
    packed = pack(groups, backbone.device, row_places)
    hidden = backbone.hidden(backbone.embed_rows(packed.tokens, packed.slots), packed.positions, packed.mask())
    row, place, token = packed.targets.unbind(1)
    table = backbone.logits(hidden[row, place]).float().log_softmax(-1)
    chosen, correct = table.gather(1, token[:, None])[:, 0], table.detach().argmax(1) == token
    return Scores(chosen, correct, tuple(stretches), packed, hidden, slots)


def _memories(backbone: Backbone, system: MemorySystem, abouts: Sequence[Document | Memory]
              ) -> tuple[list[Memory], tuple[tuple[Tensor, Tensor], ...]]:  # fmt: skip
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
    made = iter(zip(documents, blocks, strict=True))
    memories = []
    for about in abouts:
        if isinstance(about, Memory):
            memories.append(replace(about, blocks=[_constant(block) for block in about.blocks]))
            continue
        document, own = next(made)
        memories.append(Memory(document.source, system.name, system.settings, "", (document.source,), own))
    return memories, tuple(pairs)


def _constant(block: Block) -> Block:
    """The block without the history of its slots."""
    tracked = block.slots is not None and block.slots.requires_grad
    return replace(block, slots=block.slots.detach()) if tracked and block.slots is not None else block
