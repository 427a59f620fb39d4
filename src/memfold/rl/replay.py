"""Sampled traces as training rows, and the log-probabilities of their replies under new weights.

A turn is one trained call of a trace with its reply.  Turns about the same document share a row, so that their common
prefix is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from memfold.backbone.model import Backbone
from memfold.backbone.score import Scored, Scores, logprobs
from memfold.core.document import Document
from memfold.core.registry import AnySystem
from memfold.core.types import HeadScore, Memory, Step, Text, Trace
from memfold.rl.losses import entropy
from memfold.rl.questions import Question

CHARACTERS_PER_TOKEN = 3  # a rough estimate, used only to fill forward passes evenly


@dataclass(frozen=True)
class Turn:
    """One trained call with its reply.

    `source` is the document or memory that the blocks of the call come from; `trajectory` numbers the traces of an
    update.
    """

    question: Question
    source: Document | Memory
    trajectory: int
    trace: Trace
    step: Step
    advantage: float = 0.0

    @property
    def size(self) -> int:
        """The number of tokens of the reply."""
        return len(self.step.reply.tokens)

    @property
    def wants_head(self) -> bool:
        """Whether the call wants the score of a head, which has a loss of its system's instead of an advantage."""
        return isinstance(self.step.call.wants, HeadScore)

    @property
    def single(self) -> Trace:
        """The trace with this call alone."""
        return replace(self.trace, steps=(self.step,))

    @property
    def name(self) -> str:
        """The name in errors."""
        return f"{self.question.name}, trajectory {self.trajectory}"


@dataclass(frozen=True)
class Pass:
    """The turns of one forward pass, all of one kind of system, in the order of its rows."""

    system: AnySystem
    rows: tuple[tuple[Turn, ...], ...]

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Row by row."""
        return tuple(turn for row in self.rows for turn in row)

    @property
    def scored(self) -> list[Scored]:
        """The rows in the form that `logprobs` takes."""
        return [(row[0].source, [turn.single for turn in row]) for row in self.rows]

    def sampled(self, device: torch.device) -> Tensor:
        """Return the log-probabilities [n] of the replies when they were sampled."""
        values = [value for turn in self.turns for value in turn.step.reply.logprobs]
        return torch.tensor(values, device=device)

    def spread(self, value: Callable[[Turn], float], device: torch.device) -> Tensor:
        """Return a value of each turn, repeated for each of its tokens [n]."""
        values = torch.tensor([value(turn) for turn in self.turns], device=device)
        sizes = torch.tensor([turn.size for turn in self.turns], device=device)
        return values.repeat_interleave(sizes)


def turns_of(
    question: Question, source: Document | Memory, traces: Sequence[Trace], first: int = 0
) -> list[list[Turn]]:
    """Return the turns of each trace; trajectories are numbered from `first`."""
    return [
        [Turn(question, source, first + number, trace, step) for step in trace.steps if step.call.trained]
        for number, trace in enumerate(traces)
    ]


def passes(turns: Sequence[Turn], tokens: int) -> Iterator[Pass]:
    """Yield forward passes of about `tokens` positions; a row has one document or memory, a pass one kind of system."""
    ordered = sorted(turns, key=lambda turn: turn.question.kind)
    rows: list[list[Turn]] = []
    filled = 0
    for turn in ordered:
        last = rows[-1][-1] if rows else None
        same = last is not None and last.source is turn.source
        previous = last.step.call.parts if last is not None and same else None
        cost = _positions(turn, shared=previous == turn.step.call.parts, compressed=not same)
        if last is not None and (filled + cost > tokens or last.question.kind != turn.question.kind):
            yield _pass(rows)
            rows, filled, same = [], 0, False
            cost = _positions(turn, shared=False, compressed=True)
        if same:
            rows[-1].append(turn)
        else:
            rows.append([turn])
        filled += cost
    if rows:
        yield _pass(rows)


def score(backbone: Backbone, forward: Pass) -> Scores:
    """Return the log-probabilities of a pass under the weights of `backbone`, with gradient if autograd is on."""
    return logprobs(backbone, forward.system, forward.scored)


def entropies(backbone: Backbone, scores: Scores) -> Tensor:
    """Return the entropy [n] of the distribution that each reply token was drawn from."""
    return entropy(backbone.logits(scores.hidden))


def _pass(rows: Sequence[Sequence[Turn]]) -> Pass:
    return Pass(rows[0][0].question.system, tuple(map(tuple, rows)))


def _positions(turn: Turn, shared: bool, compressed: bool) -> int:
    """Return about how many positions a turn takes: reply, call unless `shared`, and document if `compressed`."""
    positions = turn.size
    if compressed and isinstance(turn.source, Document):
        positions += turn.question.size
    if shared:
        return positions
    texts = (part for part in turn.step.call.parts if isinstance(part, Text))
    read = sum(len(part.text) // CHARACTERS_PER_TOKEN if part.tokens is None else len(part.tokens) for part in texts)
    return positions + read + turn.step.reply.positions
