"""Every system beside the others: what folding, the first token, the answer and the memory on disk cost, in one run.

The first token is that of a first question: building a search index, writing notes or locating a passage is part of
it.  It is timed up to the first token of the first call that may answer, so nothing depends on how long the reply is.
The answer is that of a first question to its end, with at most `REPLY` tokens in the last call, and of a second
question on the same memory (`again`).  A sentence in the middle of the text answers it, so that a gate has a block to
open.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from memfold.api import fold_documents
from memfold.backbone.model import Backbone
from memfold.bench.text import ASKED, filler_with_fact
from memfold.bench.timing import PeakMemory, Report, count_of, ratio, rounds
from memfold.core.document import Document
from memfold.core.errors import MemfoldError
from memfold.core.job import Job
from memfold.core.policy import Policy, Request, complete
from memfold.core.registry import REFERENCE, AnySystem
from memfold.core.scheduler import answer
from memfold.core.types import Call, Memory, SamplingParams, Trace
from memfold.evaluation.candidate import make_candidate
from memfold.folding import fold_file
from memfold.session import Session

REPLY = 32  # tokens
TIMED = ("fold", "first_token", "answer", "again")


def bench_systems(
    backbone: Backbone, labels: Sequence[str], lengths: Sequence[int], warmups: int, runs: int, report: Report
) -> dict[str, Any]:
    """One entry for each length; `ratio` is how many times sooner than the reference the fastest other system gives its
    first token, at the length where that is least.

    A system that cannot read a length has its `error` there.
    """
    peak = PeakMemory(backbone)
    entries = []
    with tempfile.TemporaryDirectory() as folder:
        for length in lengths:
            times = count_of(length, warmups, runs)
            entries.append(_length(backbone, labels, length, times, peak, Path(folder)))
            report(_line(entries[-1]))
    return {"ratio": _gain(entries), "lengths": entries}


def first_token(system: AnySystem, memory: Memory, question: str, policy: Policy) -> None:
    """Ask up to the first token of the first call that may answer, or to the end if there is no such call.

    Raises:
        MemfoldError: what a call failed with.
    """
    steps = system.answer(memory, question)
    calls = next(steps, ())
    while calls:
        answering = any(map(system.may_answer, calls))
        replies = complete(policy, [Request(system, memory, _short(system, call)) for call in calls])
        if answering:
            steps.close()
            return
        try:
            calls = steps.send(tuple(replies))
        except StopIteration:
            return


def _short(system: AnySystem, call: Call) -> Call:
    return call.sampled(replace(call.sampling, max_tokens=1)) if system.may_answer(call) else call


def _length(
    backbone: Backbone, labels: Sequence[str], length: int, times: tuple[int, int], peak: PeakMemory, folder: Path
) -> dict[str, Any]:
    document = Document("filler", text=filler_with_fact(backbone, length))
    sessions = {label: Session(make_candidate(label, backbone).system, backbone) for label in labels}
    memories = {label: fold_documents([document], session).memory for label, session in sessions.items()}
    policy = next(iter(sessions.values())).policy()

    def fold(label: str) -> None:
        fold_file([document], folder / "bench.fold", sessions[label], force=True)

    def ask(label: str) -> None:  # a memory of its own: one that was asked before has its index ready
        first_token(sessions[label].system, replace(memories[label]), ASKED, policy)

    def reply(label: str, memory: Memory) -> Trace:
        return whole_answer(sessions[label].system, memory, ASKED, policy)

    systems: dict[str, dict[str, Any]] = {}
    for label in labels:
        try:
            memory = {"fold": peak.of(partial(fold, label)), "first_token": peak.of(partial(ask, label))}
            trace = reply(label, memories[label])
        except MemfoldError as error:  # past the window of a system that reads everything
            systems[label] = {"error": str(error)}
        else:
            size = (folder / "bench.fold").stat().st_size
            systems[label] = {"file_bytes": size, "peak_bytes_above_weights": memory} | _counts(trace)
    able = [label for label in labels if "error" not in systems[label]]
    timed = (
        fold,
        ask,
        lambda label: reply(label, replace(memories[label])),
        lambda label: reply(label, memories[label]),
    )
    for name, action in zip(TIMED, timed, strict=True):
        actions = {label: partial(action, label) for label in able}
        for label, seconds in rounds(actions, backbone, *times).items():
            systems[label][f"{name}_seconds"] = [round(value, 6) for value in seconds]
    for label in able:
        systems[label]["pays_after"] = _pays_after(systems[label], systems.get(REFERENCE, {}))
    return {"tokens": memories[labels[0]].token_count, "systems": systems}


def whole_answer(system: AnySystem, memory: Memory, question: str, policy: Policy) -> Trace:
    """Answer a question with at most `REPLY` tokens in the last call.

    Raises:
        MemfoldError: what a call failed with.
    """

    def sampling(call: Call, number: int) -> SamplingParams:
        limit = min(REPLY, call.sampling.max_tokens) if system.may_answer(call) else call.sampling.max_tokens
        return replace(call.sampling, max_tokens=limit)

    trace = answer(Job(system, memory, question, sampling), policy)
    if trace.failure is not None:
        raise trace.failure.exception()
    return trace


def _counts(trace: Trace) -> dict[str, Any]:
    """Return how many calls an answer took: those that generate, and all with those that only score."""
    generated = sum(bool(step.reply.tokens) for step in trace.steps)
    return {"calls": len(trace.steps), "generating_calls": generated}


def _pays_after(own: dict[str, Any], reference: dict[str, Any]) -> float | None:
    """Return after how many questions folding and asking is faster than reading the text each time; None if never."""
    if own is reference or "answer_seconds" not in reference:
        return None
    fold, again, full = (
        median(values) for values in (own["fold_seconds"], own["again_seconds"], reference["answer_seconds"])
    )
    return round(fold / (full - again), 2) if full > again else None


def _gain(entries: Sequence[dict[str, Any]]) -> float | None:
    """The least over lengths of the best over systems; None without the reference, or without another system."""
    gains = []
    for entry in entries:
        first = {
            label: found["first_token_seconds"] for label, found in entry["systems"].items() if "error" not in found
        }
        reference = first.pop(REFERENCE, None)
        if reference is not None and first:
            gains.append(max(ratio(reference, other) for other in first.values()))
    return round(min(gains), 3) if gains else None


def _line(entry: dict[str, Any]) -> str:
    parts = [f"{label} {_described(found)}" for label, found in entry["systems"].items()]
    return f"{entry['tokens']:,} tokens: {'; '.join(parts)}"


def _described(found: dict[str, Any]) -> str:
    if "error" in found:
        return "cannot read it"
    fold, first, whole = (median(found[f"{name}_seconds"]) for name in ("fold", "first_token", "answer"))
    return f"folds in {fold:.2f} s, first token after {first:.2f} s, answer after {whole:.2f} s"
