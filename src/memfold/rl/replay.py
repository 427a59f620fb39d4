"""Sampled traces as training rows: which conversations count how much, and their log-probabilities under new weights.

A conversation is one trained call of a trace with its reply.  Those about one document share a row, so that what they
have in common is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from memfold.backbone.model import Backbone
from memfold.backbone.scoring import Scored, Scores, logprobs
from memfold.core.document import Document
from memfold.core.system import MemorySystem
from memfold.core.types import Memory, Step, Text, Trace
from memfold.rl.losses import entropy
from memfold.rl.questions import Question

CHARACTERS = 3  # to a token, about; only to fill forward passes evenly


@dataclass(frozen=True)
class Conversation:
    """One trained call.  `trajectory` numbers the traces of an update; `about` is what the call's blocks come from."""

    question: Question
    about: Document | Memory
    trajectory: int
    trace: Trace
    step: Step
    advantage: float = 0.0

    @property
    def size(self) -> int:
        """Tokens of the reply."""
        return len(self.step.reply.tokens)

    @property
    def single(self) -> Trace:
        """The trace with this call alone."""
        return replace(self.trace, steps=(self.step,))

    @property
    def name(self) -> str:
        """As errors call it."""
        return f"{self.question.name}, trajectory {self.trajectory}"


@dataclass(frozen=True)
class Pass:
    """The conversations of one forward pass, all of one kind of system, in the order of its rows."""

    system: MemorySystem
    rows: tuple[tuple[Conversation, ...], ...]

    @property
    def conversations(self) -> tuple[Conversation, ...]:
        """Row by row."""
        return tuple(conversation for row in self.rows for conversation in row)

    @property
    def scored(self) -> list[Scored]:
        """As `logprobs` takes them."""
        return [(row[0].about, [conversation.single for conversation in row]) for row in self.rows]

    def sampled(self, device: torch.device) -> Tensor:
        """Log-probabilities [n] with which the replies were sampled."""
        values = [value for conversation in self.conversations for value in conversation.step.reply.logprobs]
        return torch.tensor(values, device=device)

    def spread(self, value: Callable[[Conversation], float], device: torch.device) -> Tensor:
        """A value of each conversation for each of its tokens [n]."""
        values = torch.tensor([value(conversation) for conversation in self.conversations], device=device)
        sizes = torch.tensor([conversation.size for conversation in self.conversations], device=device)
        return values.repeat_interleave(sizes)


def conversations(question: Question, about: Document | Memory, traces: Sequence[Trace], first: int = 0
                  ) -> list[list[Conversation]]:  # fmt: skip
    """The trained calls of each trace; trajectories are numbered from `first`."""
    return [
        [Conversation(question, about, first + number, trace, step) for step in trace.steps if step.call.trained]
        for number, trace in enumerate(traces)
    ]


def passes(given: Sequence[Conversation], tokens: int) -> Iterator[Pass]:
    """Forward passes of about `tokens` places, rows of one document or memory, kinds of systems apart."""
    ordered = sorted(given, key=lambda one: one.question.kind)
    rows: list[list[Conversation]] = []
    filled = 0
    for conversation in ordered:
        last = rows[-1][-1] if rows else None
        same = last is not None and last.about is conversation.about
        asked = last.step.call.parts if last is not None and same else None
        cost = _places(conversation, shared=asked == conversation.step.call.parts, compressed=not same)
        if last is not None and (filled + cost > tokens or last.question.kind != conversation.question.kind):
            yield _pass(rows)
            rows, filled, same = [], 0, False
            cost = _places(conversation, shared=False, compressed=True)
        if same:
            rows[-1].append(conversation)
        else:
            rows.append([conversation])
        filled += cost
    if rows:
        yield _pass(rows)


def score(backbone: Backbone, given: Pass) -> Scores:
    """Log-probabilities of a pass under the weights of `backbone`; with gradient where autograd is on."""
    return logprobs(backbone, given.system, given.scored)


def entropies(backbone: Backbone, scores: Scores) -> Tensor:
    """The entropy [n] of the distribution that each reply token was drawn from."""
    row, place, _ = scores.packed.targets.unbind(1)
    return entropy(backbone.logits(scores.hidden[row, place]))


def _pass(rows: Sequence[Sequence[Conversation]]) -> Pass:
    return Pass(rows[0][0].question.system, tuple(map(tuple, rows)))


def _places(conversation: Conversation, shared: bool, compressed: bool) -> int:
    """About how many places a conversation takes: its reply, what it reads where that is not `shared`, and a document
    that is `compressed` for it with gradient."""
    places = conversation.size
    if compressed and isinstance(conversation.about, Document):
        places += conversation.question.size
    if shared:
        return places
    texts = (part for part in conversation.step.call.parts if isinstance(part, Text))
    read = sum(len(part.text) // CHARACTERS if part.tokens is None else len(part.tokens) for part in texts)
    return places + read + conversation.step.reply.positions
