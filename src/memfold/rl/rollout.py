"""Sampled replies: several for each question, all through the shared driver, whatever the system.

Every call has a seed of its own, made of the run's, the step and its place, so that a reply does not depend on what
else is sampled.  Left out: what replies are worth (`rewards`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from memfold.backbone.model import Backbone
from memfold.core import driver
from memfold.core.driver import Job
from memfold.core.system import MemorySystem, Policy
from memfold.core.types import Call, Limits, Memory, Trace
from memfold.core.wrapped import Limited
from memfold.rl.questions import Question
from memfold.systems.shared.folding import fold
from memfold.training.batches import seed_of

ANSWER = "answer"


@dataclass(frozen=True)
class Sampling:
    """How replies are sampled; `reply_tokens` bounds answers, what a system keeps for itself has bounds of its own.

    At temperature 0 they are greedy; at 1 they come from the very distribution whose log-probabilities are scored.
    """

    reply_tokens: int = 160
    temperature: float = 1.0

    def limits(self, call: Call, seed: int) -> Limits:
        """Those of a call."""
        most = self.reply_tokens if call.purpose == ANSWER else call.limits.max_tokens
        return Limits(most, self.temperature, seed=seed)


def sampled(system: MemorySystem, sampling: Sampling, *seed: object) -> MemorySystem:
    """The system with its replies sampled, each by a seed of its own."""
    return Limited(system, lambda call, number: sampling.limits(call, seed_of(*seed, number) >> 1))  # as torch takes it


@dataclass(frozen=True)
class Rollouts:
    """A question with its memory and the traces that were sampled, in the order of their numbers."""

    question: Question
    memory: Memory
    traces: tuple[Trace, ...]


def roll_out(questions: Sequence[Question], backbone: Backbone, policy: Policy, sampling: Sampling, count: int,
             places: int, *seed: object) -> list[Rollouts]:  # fmt: skip
    """Fold the documents and sample `count` replies to each question, `places` at a time."""
    memories = _memories(questions, backbone)
    jobs = [
        Job(sampled(one.system, sampling, *seed, one.seed, one.number, index), memory, one.sample.question)
        for one, memory in zip(questions, memories, strict=True)
        for index in range(count)
    ]  # fmt: skip
    traces: list[Trace | None] = [None] * len(jobs)
    for number, trace in driver.run(jobs, policy, places):
        traces[number] = trace
    done = [trace for trace in traces if trace is not None]
    return [
        Rollouts(question, memory, tuple(done[place * count : (place + 1) * count]))
        for place, (question, memory) in enumerate(zip(questions, memories, strict=True))
    ]


def _memories(questions: Sequence[Question], backbone: Backbone) -> list[Memory]:
    """One for each question, those of one document shared; documents of the same kind of question folded together."""
    kinds: dict[str, dict[int, Question]] = {}
    for question in questions:
        kinds.setdefault(question.kind, {})[question.seed] = question
    found: dict[tuple[str, int], Memory] = {}
    for kind, own in kinds.items():
        system = next(iter(own.values())).system
        memories = fold(system, [question.document for question in own.values()], backbone)
        found |= {(kind, seed): _lean(memory) for seed, memory in zip(own, memories, strict=True)}
    return [found[question.kind, question.seed] for question in questions]


def _lean(memory: Memory) -> Memory:
    """Without the text that only citations need: nobody reads those of a rollout.  Unfolding reads it again."""
    if memory.settings.get("unfold"):
        return memory
    blocks = [block if block.slots is None else replace(block, text=None) for block in memory.blocks]
    return replace(memory, blocks=blocks)
