"""Rollouts: several sampled replies to each question, for any system.

Every call has its own seed, derived from the seed of the run, the step and its position within the run, so that a reply
does not depend on what else is sampled.  Rewards are in `rewards`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from memfold.backbone.model import Backbone
from memfold.core.job import Job, Sampling
from memfold.core.policy import Policy
from memfold.core.registry import AnySystem
from memfold.core.scheduler import Scheduler
from memfold.core.system import ANSWER
from memfold.core.types import Call, Memory, SamplingParams, Trace
from memfold.rl.questions import Question
from memfold.systems.shared.folding import fold
from memfold.training.batches import seed_of


@dataclass(frozen=True)
class RolloutSampling:
    """How replies are sampled; `reply_tokens` limits answers, while a system limits its other calls itself.

    Temperature 0 is greedy; at temperature 1 replies come from the distribution whose log-probabilities are scored.
    """

    reply_tokens: int = 160
    temperature: float = 1.0

    def seeded(self, *seed: object) -> Sampling:
        """Return the sampling parameters of each call of a job, each with its own seed."""

        def params(call: Call, number: int) -> SamplingParams:
            max_tokens = self.reply_tokens if call.purpose == ANSWER else call.sampling.max_tokens
            # torch takes seeds of 63 bits
            return SamplingParams(max_tokens, self.temperature, seed=seed_of(*seed, number) >> 1)

        return params


@dataclass(frozen=True)
class Rollouts:
    """A question with its memory and its sampled traces, in order."""

    question: Question
    memory: Memory
    traces: tuple[Trace, ...]


def roll_out(
    questions: Sequence[Question],
    backbone: Backbone,
    policy: Policy,
    sampling: RolloutSampling,
    count: int,
    max_concurrency: int,
    *seed: object,
) -> list[Rollouts]:
    """Fold the documents and sample `count` replies to each question, `max_concurrency` at a time."""
    memories = _memories(questions, backbone)
    jobs = [
        Job(q.system, memory, q.sample.question, sampling.seeded(*seed, q.seed, q.number, index))
        for q, memory in zip(questions, memories, strict=True)
        for index in range(count)
    ]
    traces: list[Trace | None] = [None] * len(jobs)
    for number, trace in Scheduler(policy, max_concurrency).run(jobs):
        traces[number] = trace
    done = [trace for trace in traces if trace is not None]
    return [
        Rollouts(question, memory, tuple(done[index * count : (index + 1) * count]))
        for index, (question, memory) in enumerate(zip(questions, memories, strict=True))
    ]


def _memories(questions: Sequence[Question], backbone: Backbone) -> list[Memory]:
    """Return a memory for each question; each document is folded once, together with others of the same kind."""
    kinds: dict[str, dict[int, Question]] = {}
    for question in questions:
        kinds.setdefault(question.kind, {})[question.seed] = question
    folded: dict[tuple[str, int], Memory] = {}
    for kind, by_seed in kinds.items():
        system = next(iter(by_seed.values())).system
        memories = fold(system, [question.document for question in by_seed.values()], backbone)
        folded |= {(kind, seed): _without_text(memory, system) for seed, memory in zip(by_seed, memories, strict=True)}
    return [folded[question.kind, question.seed] for question in questions]


def _without_text(memory: Memory, system: AnySystem) -> Memory:
    """Return the memory of slots without text, unless the system reads it again: citations of rollouts are not used."""
    if system.capabilities.rereads_text:
        return memory
    blocks = [block if block.slots is None else replace(block, text=None) for block in memory.blocks]
    return replace(memory, blocks=blocks)
