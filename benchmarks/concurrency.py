"""Write one memory file with several processes at once, kill some of them, and count what is lost.

    python benchmarks/concurrency.py [--trials 200] [--seed 0] [--model tiny]

A trial begins with no file or with a memory, and starts two to eight processes on one path: folds, appends and asks,
each after a random delay.  About half of those that write are killed at a random moment.  Afterwards the file must be
readable and hold every document of a command that ended well; every ask must have got its answer; every refusal must
be one line that says why.  Then the killed commands run again, one by one, and the same must hold.

Processes are forked from one that has loaded the model, so that they are at work within milliseconds.  The result is
one JSON object, printed and written to benchmarks/results/concurrency.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}  # so that the process can be forked

import torch

from memfold.backbone.origin import commit, hardware
from memfold.cli.main import execute
from memfold.core.errors import DataError
from memfold.core.outputs import write_text
from memfold.memory import open_memory, partial_folder
from memfold.tasks.filler import sentence

RESULTS = Path(__file__).parent / "results"
MEMORY, QUESTION = "m.fold", "Who stood by the gate?"
DOCUMENTS, TEXTS, SENTENCES = 6, 4, 24  # a document is a folder of texts, each of them a block
MOST_PROCESSES, KILLED, LATEST_START, LATEST_KILL = 8, 0.5, 0.3, 1.0
PATIENCE = 120.0  # seconds after which a process hangs
FOLD, APPEND, ASK = "fold", "append", "ask"
EXPLAINED = {
    "busy": r"another process is writing .*; wait for it or choose another name",
    "other documents": r".* is a memory of other documents \(.*\); choose another name, .*",
    "interrupted": r".*\.partial holds an interrupted fold of other documents \(.*\); .*",
    "no file": r"no memory file at .*",
}


@dataclass(frozen=True)
class Job:
    """One process: what it does, with which document, when it starts and when it is killed."""

    kind: str
    document: int
    start: float = 0.0
    kill: float | None = None

    def arguments(self, folder: Path, model: str) -> list[str]:
        """The command line."""
        memory = str(folder / MEMORY)
        if self.kind == ASK:
            return ["ask", memory, QUESTION, "--model", model]
        append = ["--append"] if self.kind == APPEND else []
        return ["fold", str(folder / f"document-{self.document}"), "-o", memory, "--model", model, *append]


@dataclass
class Found:
    """What all trials found."""

    processes: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    unreadable: int = 0
    disturbed_asks: int = 0
    left_over: int = 0
    problems: list[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """For the result file."""
        return {
            "processes": dict(sorted(self.processes.items())),
            "refused": dict(sorted(self.refused.items())),
            "trials_with_a_lost_document": self.lost,
            "trials_with_an_unreadable_file": self.unreadable,
            "asks_without_an_answer": self.disturbed_asks,
            "trials_with_a_partial_folder_left": self.left_over,
            "problems": self.problems,
        }


def main() -> int:
    """Run the trials; the exit code is 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--out", type=Path, default=RESULTS / "concurrency.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    found = run(arguments.trials, arguments.seed, arguments.model)
    result = {
        "command": f"python benchmarks/concurrency.py --trials {arguments.trials} --seed {arguments.seed}",
        "commit": commit(),
        "hardware": hardware(torch.device("cpu")),
        "model": arguments.model,
        "trials": arguments.trials,
        "seconds": round(time.perf_counter() - started, 1),
    } | found.record()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(arguments.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return int(bool(found.problems))


def run(trials: int, seed: int, model: str) -> Found:
    """Run trials, each in a folder of its own."""
    found = Found()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        write_documents(base)
        with (base / "log").open("w") as log, redirect_stdout(log), redirect_stderr(log):
            for kind in (FOLD, ASK):  # in this process, which loads the model and all modules
                code = execute(Job(kind, 0).arguments(base, model))
                log.flush()
                if code:
                    raise SystemExit(f"{kind}: exit code {code}: {(base / 'log').read_text()}")
        for number in range(trials):
            place = Path(folder) / str(number)
            shutil.copytree(base, place)
            _trial(Random(f"{seed}/{number}"), place, model, found, f"trial {number}")
            shutil.rmtree(place)
            if sys.stderr.isatty():
                print(f"\r{number + 1}/{trials}, {len(found.problems)} problems", end="", file=sys.stderr)
    return found


def write_documents(folder: Path) -> None:
    """Write all documents, each of several short texts that differ from all others."""
    for document in range(DOCUMENTS):
        (folder / f"document-{document}").mkdir(parents=True)
        for number in range(TEXTS):
            rng = Random(f"{document}/{number}")
            text = " ".join(sentence(rng) for _ in range(SENTENCES))
            (folder / f"document-{document}" / f"{document}-{number}.txt").write_text(text)


def _trial(rng: Random, folder: Path, model: str, found: Found, name: str) -> None:
    """Run one trial and count what it finds."""
    memory = folder / MEMORY
    begun = rng.random() < 0.7
    if not begun:
        memory.unlink()
    jobs = _jobs(rng, begun)
    kept = {0} if begun else set()
    problems = []
    for again in (False, True):
        chosen = [job for job in jobs if not again or (job.kill is not None and job.kind != ASK)]
        rounds = [[Job(job.kind, job.document)] for job in (*chosen, *chosen)] if again else [chosen]
        for number, together in enumerate(rounds):
            if number >= len(chosen) and again and not partial_folder(memory).exists():
                break  # those that were refused because of an interrupted fold need not wait any more
            ended = begin(together, folder, model)
            kept |= {job.document for job, code, _ in ended if code == 0 and job.kind != ASK}
            problems += _explain(ended, begun, found)
        problems += _check_file(memory, kept, found)
    if partial_folder(memory).exists():
        found.left_over += 1
        problems.append("a partial folder is left")
    found.problems += [f"{name}: {problem}" for problem in problems]


def _jobs(rng: Random, begun: bool) -> list[Job]:
    """Processes on one path: with a memory there, mostly appends; without, mostly folds."""
    jobs = []
    for _ in range(rng.randint(2, MOST_PROCESSES)):
        kind = rng.choice((APPEND, APPEND, FOLD, ASK) if begun else (FOLD, FOLD, APPEND, ASK))
        document = 0 if kind == FOLD and begun else rng.randrange(DOCUMENTS)
        kill = rng.uniform(0, LATEST_KILL) if rng.random() < KILLED and kind != ASK else None
        jobs.append(Job(kind, document, rng.uniform(0, LATEST_START), kill))
    return jobs


def begin(jobs: Sequence[Job], folder: Path, model: str) -> list[tuple[Job, int, str]]:
    """Run processes at once, and kill some; each with its exit code (negative: killed) and its last line of errors."""
    context = multiprocessing.get_context("fork")
    logs = [folder / f"log-{number}" for number in range(len(jobs))]
    started = time.monotonic()
    processes = []
    for job, log in zip(jobs, logs, strict=True):
        process = context.Process(target=_work, args=(job, folder, model, log))
        process.start()
        processes.append(process)
    kills = sorted((job.start + job.kill, number) for number, job in enumerate(jobs) if job.kill is not None)
    for moment, number in kills:
        time.sleep(max(0.0, started + moment - time.monotonic()))
        processes[number].kill()
    ended = []
    for job, process, log in zip(jobs, processes, logs, strict=True):
        process.join(PATIENCE)
        if process.exitcode is None:
            process.kill()
            process.join()
        lines = log.read_text().splitlines() if log.exists() else []
        ended.append((job, process.exitcode or 0, "\n".join(line for line in lines if line.startswith("memfold: "))))
    return ended


def _work(job: Job, folder: Path, model: str, log: Path) -> None:
    """In the new process: run the command with its output in a file, and leave with its exit code."""
    with log.open("w") as file:
        sys.stdout = sys.stderr = file
        time.sleep(job.start)
        code = execute(job.arguments(folder, model))
        file.flush()
        os._exit(code)


def _explain(ended: Sequence[tuple[Job, int, str]], begun: bool, found: Found) -> Iterator[str]:
    """Count how processes ended; yields what should not be."""
    for job, code, line in ended:
        state = "done" if code == 0 else "killed" if code < 0 else "refused"
        found.processes[f"{job.kind}: {state}"] += 1
        reason = next((name for name, form in EXPLAINED.items() if re.fullmatch(f"memfold: {form}", line)), None)
        if code > 0:
            found.refused[reason or line] += 1
        if code > 0 and (reason is None or code != 2):
            yield f"{job.kind} ended with {code}: {line}"
        if code < 0 and job.kill is None:
            yield f"{job.kind} hung or crashed: {code}"
        if job.kind == ASK and code and (begun or reason != "no file"):
            found.disturbed_asks += 1
            yield f"an ask got no answer: {code} {line}"


def _check_file(memory: Path, kept: set[int], found: Found) -> Iterator[str]:
    """Whether the file is readable and holds these documents; yields what is wrong with it."""
    held: set[int] = set()
    if memory.exists():
        try:
            opened = open_memory(memory)
            held = {int(source.partition("-")[0]) for source in opened.sources}
            assert all(block.read() for block in opened.blocks), "every block has a text"
        except DataError as error:
            found.unreadable += 1
            yield f"unreadable: {error}"
            return
    if kept - held:
        found.lost += 1
        yield f"lost documents {sorted(kept - held)} of {sorted(kept)}"


if __name__ == "__main__":
    sys.exit(main())
