"""Runs a suite: folds its documents, asks every system the same cases in batches, and appends a record per sample.

Samples that the folder already holds are not asked again.  The suite and the report interpret the records.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from memfold.core.job import Job, reading_together
from memfold.core.lock import FolderLock, locked
from memfold.core.model import Model
from memfold.core.policy import Policy
from memfold.core.scheduler import Scheduler
from memfold.core.types import Memory, Trace
from memfold.evaluation.candidate import Candidate
from memfold.evaluation.folding import Folding, Foldings
from memfold.evaluation.judging import judged
from memfold.evaluation.note_figures import note_figures
from memfold.evaluation.reading import reading_figures
from memfold.evaluation.records import Record, RecordFile, Spent
from memfold.evaluation.sampling import sampling_of
from memfold.evaluation.suite import Case, Options, Score, Suite, arguments_of
from memfold.evaluation.wrong_answers import wrong_class
from memfold.scoring.expansion import expansions, invented_names
from memfold.scoring.judge import Judge
from memfold.session import policy_of

# Keys and values of all rows of a batch together; activations and embeddings come to about as much again.
CACHE_BYTES = {"cpu": 1 << 30}
CACHE_BYTES_ELSEWHERE = 4 << 30
AHEAD = 4  # cases are taken in groups of so many full batches: one long reply then keeps few others waiting
ENDPOINT_CASES = 32  # asked of an endpoint before their records are written

OnRecord = Callable[[Record], None]


@dataclass(frozen=True)
class Evaluation:
    """A suite with what it is asked about whom, and the judge of the answers where it is not the suite itself."""

    suite: Suite
    options: Options
    candidates: tuple[Candidate, ...]
    model: Model
    judge: Judge | None = None

    @property
    def labels(self) -> list[str]:
        """The systems in the order in which they were named."""
        return [candidate.label for candidate in self.candidates]

    def arguments(self) -> dict[str, Any]:
        """Return what two runs must share to be one; systems may be added to a run later."""
        model = {"model": self.model.identity, "dtype": self.model.precision}
        return arguments_of(self.suite, self.options) | model


def run(
    evaluation: Evaluation,
    folder: Path,
    policy: Policy | None = None,
    on_record: OnRecord | None = None,
    lock: FolderLock | None = None,
) -> list[Record]:
    """Ask what is not in the folder yet; all records of these systems, old and new.

    `on_record` receives every record that is counted, those found in the folder first.  `lock` is that of the folder,
    if the caller holds it.

    Raises:
        MemfoldError: for a folder of another run or one that another process writes, or a model that cannot do what a
            system needs.  What fails for one sample alone is in its record.
    """
    with locked(folder, lock):
        return _run(evaluation, folder, policy, on_record)


def _run(evaluation: Evaluation, folder: Path, policy: Policy | None, on_record: OnRecord | None) -> list[Record]:
    model, labels = evaluation.model, set(evaluation.labels)
    file = RecordFile(folder, evaluation.arguments())
    notify = on_record or (lambda record: None)
    for record in file.records:
        if record.system in labels:
            notify(record)
    positions = cache_positions(model)
    policy = policy or policy_of(model, positions)
    most = sys.maxsize if model.has_weights else ENDPOINT_CASES
    foldings = Foldings(model)
    longest = max(candidate.system.read.sampling().max_tokens for candidate in evaluation.candidates)
    cases = evaluation.suite.cases(evaluation.options, model)
    limited = (replace(case, reply_tokens=case.reply_tokens or longest) for case in cases)
    for batch in batches(limited, AHEAD * positions, most):
        for candidate in evaluation.candidates:
            waiting = [case for case in batch if (candidate.label, case.key) not in file.done]
            asked = _ask(evaluation, candidate, foldings.of(candidate.system), waiting, policy, positions)
            for record in asked if evaluation.judge is None else judged(asked, evaluation.judge):
                file.append(record)
                notify(record)
    return [record for record in file.records if record.system in labels]


def cache_positions(model: Model) -> int:
    """Return how many token positions all rows of a batch may have together on this model's device; an endpoint
    manages its own."""
    if not model.has_weights:
        return sys.maxsize
    backbone = model.weights()
    budget = CACHE_BYTES.get(backbone.device.type, CACHE_BYTES_ELSEWHERE)
    return max(1, budget // (backbone.kv_bytes_per_token * backbone.dtype.itemsize // 2))


def batches(cases: Iterable[Case], positions: int, most: int = sys.maxsize) -> Iterator[list[Case]]:
    """Yield as many whole documents of one length as fit with their replies and `most` cases, but at least one."""
    batch: list[Case] = []
    used = 0
    for _, group in groupby(cases, key=lambda case: case.seed):
        together = list(group)
        cost = sum(map(_positions, together))
        full = used + cost > positions or len(batch) + len(together) > most
        if batch and (full or batch[0].size != together[0].size):
            yield batch
            batch, used = [], 0
        batch += together
        used += cost
    if batch:
        yield batch


def _ask(
    evaluation: Evaluation,
    candidate: Candidate,
    folding: Folding,
    cases: Sequence[Case],
    policy: Policy,
    positions: int,
) -> Iterator[Record]:
    """Fold the documents of these cases and answer them."""
    if not cases:
        return
    suite, model = evaluation.suite, evaluation.model
    settings = candidate.system.settings  # how it reads may differ from how another candidate of the folding does
    memories = {seed: replace(memory, settings=settings) for seed, memory in folding.memories(cases).items()}
    jobs = reading_together([_job(evaluation, candidate, case, memories[case.seed]) for case in cases])
    longest_call = candidate.system.capabilities.call_positions or sys.maxsize
    max_concurrency = max(1, positions // max(min(case.size, longest_call) + case.reply_tokens for case in cases))
    for number, trace in Scheduler(policy, max_concurrency).run(jobs):
        case = cases[number]
        score = Score("", False) if trace.answer is None else suite.score(case, trace, model)
        read = reading_figures(trace, memories[case.seed], case.sample.evidence)
        noted = note_figures(trace, memories[case.seed], case.sample)
        score = replace(score, figures=score.figures | read | noted)
        wrong = None if score.correct else wrong_class(trace, memories[case.seed], case.sample)
        yield replace(_record(suite.name, candidate, case, trace, score, folding.seconds), wrong=wrong)


def _job(evaluation: Evaluation, candidate: Candidate, case: Case, memory: Memory) -> Job:
    """Return the suite's way of asking, with the replies drawn as the options say."""
    suite, options = evaluation.suite, evaluation.options
    job = suite.job(candidate, case, memory, evaluation.model)
    return replace(job, sampling=sampling_of(options.sampling, suite.temperature, f"{options.seed}/{case.key}"))


def _positions(case: Case) -> int:
    return case.size + case.reply_tokens


def _record(suite: str, candidate: Candidate, case: Case, trace: Trace, score: Score, fold_seconds: float) -> Record:
    sample, cost = case.sample, trace.cost
    spent = Spent(
        cost.calls,
        cost.document_tokens,
        cost.slots,
        cost.positions,
        round(cost.effective_ratio, 4),
        cost.generated_tokens,
        round(cost.seconds, 4),
        round(fold_seconds, 4),
    )
    reply, text = trace.answer.reply if trace.answer else "", sample.document.text or ""
    return Record(
        case=case.key,
        system=candidate.label,
        suite=suite,
        seed=case.seed,
        size=case.size,
        split=sample.split,
        kind=sample.kind,
        hops=sample.hops,
        question=sample.question,
        accepted=case.accepted,
        answer=score.answer,
        reply=reply,
        correct=score.correct,
        ratio=candidate.system.ratio,
        citations=trace.answer.citations if trace.answer else (),
        evidence=sample.evidence,
        expansions=tuple(expansions(reply, text)),
        invented=tuple(invented_names(reply, text, sample.question)) if text else (),
        figures=score.figures,
        error=None if trace.failure is None else str(trace.failure),
        cost=spent,
    )
