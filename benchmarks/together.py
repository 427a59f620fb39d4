"""Measure how much faster questions about many documents are answered at once than one by one.

    python benchmarks/together.py [--system recurrent] [--documents 64] [--tokens 2048] [--model tiny]

Each document has one question of the suite `ruler-hqa`, and a memory of its own, which is made before the clock starts.
All questions are answered by one scheduler, first one at a time (`max_concurrency` 1), then all together, in the same
process and after a warm-up.  The times are wall-clock seconds, so run it on an idle machine.

Answers are compared, too: rows of a batch are rounded differently, so where two tokens are almost equally likely, the
replies may differ.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from result_file import write_result

from memfold.core.errors import MemfoldError
from memfold.core.job import Job
from memfold.core.scheduler import Scheduler
from memfold.core.types import Generate, Trace
from memfold.evaluation.suite import document_seed
from memfold.session import Session, open_session
from memfold.systems.shared.folding import fold
from memfold.tasks.almanac.spread import spread
from memfold.tasks.task import TaskOptions

WARM_UP = 2  # documents


def main() -> int:
    """Measure one system."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--system", default="recurrent")
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=2048, help="of a document (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    try:
        session = open_session(arguments.system, arguments.model, device=arguments.device)
        measured = measure(session, arguments.documents, arguments.tokens, arguments.seed)
    except MemfoldError as error:
        print(error, file=sys.stderr)
        return 1
    write_result("together", session.model, arguments.device, measured, arguments.out)
    return 0


def measure(session: Session, documents: int, tokens: int, seed: int) -> dict[str, Any]:
    """Return the seconds one by one and together, their ratio, and how many answers are the same."""
    jobs = [_job(session, document_seed("together", seed, tokens, number), tokens) for number in range(documents)]
    for concurrency in (1, WARM_UP):
        answered(session, jobs[:WARM_UP], concurrency)
    alone, alone_seconds = answered(session, jobs, 1)
    together, together_seconds = answered(session, jobs, documents)
    pairs = zip(alone, together, strict=True)
    return {
        "system": session.system.name,
        "settings": session.settings,
        "documents": documents,
        "tokens": tokens,
        "calls": sum(len(trace.steps) for trace in together),
        "written": {"one by one": _written(alone), "together": _written(together)},
        "seconds": {"one by one": round(alone_seconds, 2), "together": round(together_seconds, 2)},
        "times_faster": round(alone_seconds / together_seconds, 2),
        "same_answers": sum(_answer(first) == _answer(second) for first, second in pairs),
    }


def answered(session: Session, jobs: Sequence[Job], concurrency: int) -> tuple[list[Trace], float]:
    """Return the traces of jobs in their order, and the seconds that they took."""
    started = time.perf_counter()
    traces = dict(Scheduler(session.policy(), concurrency).run(jobs))
    return [traces[number] for number in range(len(jobs))], time.perf_counter() - started


def _job(session: Session, seed: int, tokens: int) -> Job:
    sample = spread(seed, tokens, TaskOptions(samples=1), session.model.encode)[0]
    return Job(session.system, fold(session.system, [sample.document], session.model)[0], sample.question)


def _answer(trace: Trace) -> str | None:
    return None if trace.answer is None else trace.answer.text


def _written(traces: Sequence[Trace]) -> int:
    """Return the number of tokens that were written."""
    return sum(
        step.reply.token_count for trace in traces for step in trace.steps if isinstance(step.call.wants, Generate)
    )


if __name__ == "__main__":
    sys.exit(main())
