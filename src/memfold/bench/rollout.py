"""How fast replies are sampled for reinforcement learning, beside what bounds it: the backbone decoding the same rows.

Questions about several documents get eight sampled replies each, all in one batch.  The backbone alone reads the same
prompts and is fed the very tokens that were sampled, rows leaving as their replies end; what sampling takes longer is
choosing tokens, their log-probabilities, rendering, and the scheduler.  Left out: folding, rewards, the update.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import torch

from memfold.api import fold_documents
from memfold.backbone.cache import select_rows
from memfold.backbone.decode import LEAVING
from memfold.backbone.model import Backbone
from memfold.backbone.policy import LocalPolicy
from memfold.backbone.prefill import prefill
from memfold.bench.text import QUESTION, filler
from memfold.bench.timing import Report, count_of, ratio, rounds
from memfold.core.document import Document
from memfold.core.job import Job, Sampling
from memfold.core.scheduler import Scheduler
from memfold.core.system import Rendered
from memfold.core.types import Call, Memory, SamplingParams, Trace
from memfold.session import Session

DOCUMENTS, REPLIES, REPLY_TOKENS = 16, 8, 48


def bench_rollout(session: Session, lengths: Sequence[int], warmups: int, runs: int, report: Report) -> dict[str, Any]:
    """One entry for each length; `ratio` is the least share of the backbone's rate that sampling reaches."""
    entries = []
    for length in lengths:
        entries.append(_length(session, length, count_of(length, warmups, runs)))
        report(_line(entries[-1]))
    return {"ratio": min(entry["share_of_decoding"] for entry in entries), "lengths": entries}


def _length(session: Session, length: int, times: tuple[int, int]) -> dict[str, Any]:
    backbone = session.model.weights()
    text = filler(backbone, length)
    documents = [Document(f"filler-{number}", text=f"{number} {text}") for number in range(DOCUMENTS)]
    memories = [fold_documents([document], session).memory for document in documents]
    traces = _sample(session, memories)

    def sampled() -> None:
        _sample(session, memories)

    def decoded() -> None:
        _decode(session, memories, traces)

    seconds = rounds({"sampled": sampled, "decoded": decoded}, backbone, *times)
    tokens = sum(trace.cost.generated_tokens for trace in traces)
    return {
        "tokens": length,
        "replies": len(traces),
        "reply_tokens": tokens,
        "share_of_decoding": round(ratio(seconds["decoded"], seconds["sampled"]), 3),
        "tokens_per_second": round(tokens / median(seconds["sampled"])),
        "seconds": {name: [round(value, 5) for value in values] for name, values in seconds.items()},
    }


def _sample(session: Session, memories: Sequence[Memory]) -> list[Trace]:
    """Eight replies to each memory, the same ones whenever it is called."""

    def sampling(seed: int) -> Sampling:
        def params(call: Call, number: int) -> SamplingParams:
            return replace(call.sampling, max_tokens=REPLY_TOKENS, temperature=1.0, seed=seed)

        return params

    jobs = [
        Job(session.system, memory, QUESTION, sampling(index * REPLIES + number))
        for index, memory in enumerate(memories)
        for number in range(REPLIES)
    ]
    scheduler = Scheduler(LocalPolicy(session.model.weights()), len(jobs))
    return [trace for _, trace in sorted(scheduler.run(jobs), key=lambda numbered: numbered[0])]


def _decode(session: Session, memories: Sequence[Memory], traces: Sequence[Trace]) -> None:
    """The backbone alone, over the same prompts and tokens."""
    backbone: Backbone = session.model.weights()
    steps = [(memories[index // REPLIES], step) for index, trace in enumerate(traces) for step in trace.steps]
    rendered = [session.system.render(memory, step.call, backbone) for memory, step in steps]
    decode_again(backbone, rendered, [step.reply.tokens for _, step in steps])


@torch.no_grad()
def decode_again(backbone: Backbone, rendered: Sequence[Rendered], replies: Sequence[Sequence[int]]) -> None:
    """Feed replies that are known, rows leaving as they end: what decoding costs where no token is chosen."""
    cache, mask, _ = prefill(backbone, rendered)
    left = list(range(len(rendered)))
    for count in range(1, max(map(len, replies)) + 1):
        active = [number for number in left if len(replies[number]) > count]
        if not active:
            return
        if len(left) - len(active) >= LEAVING * len(left):
            chosen = torch.tensor([left.index(number) for number in active], device=mask.device)
            select_rows(cache, chosen)
            mask, left = mask[chosen], active
        mask = torch.cat([mask, mask.new_ones(len(left), 1)], 1)
        tokens = [[replies[number][min(count, len(replies[number])) - 1]] for number in left]
        positions = [[rendered[number].positions[-1] + count] for number in left]
        inputs = torch.tensor(tokens, device=backbone.device)
        backbone.next_logits(inputs, torch.tensor(positions, device=backbone.device), cache, mask)


def _line(entry: dict[str, Any]) -> str:
    return (
        f"{entry['tokens']:,} tokens: {entry['tokens_per_second']:,} reply tokens/s, {entry['share_of_decoding']:.2f} "
        f"of the rate at which the backbone decodes the same {entry['replies']} replies"
    )
