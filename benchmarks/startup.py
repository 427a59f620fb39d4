"""Measure what a command costs before it does its work: whole processes, in CPU seconds, with the share of imports.

    python benchmarks/startup.py [--runs 5] [--tokens 20000] [--threads N]

The commands are refusals, reports that need no model, and one question about a memory that `--tokens` tokens were
folded into, with the shipped model.  They run in turn, round after round; a figure is the median of the rounds.  CPU
seconds are user and system time of the process: unlike seconds of a clock they are comparable on a busy machine,
though caches that are shared make them larger there.  One more run of each command measures the CPU seconds that the
modules of each package take to import.  `--threads` sets OMP_NUM_THREADS, which is otherwise what a command sets.

The result is one JSON object, printed and written to benchmarks/results/startup.json; a Markdown table of it goes to
standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
MEMORY, TEXT, SEED = "m.fold", "sample/document.txt", 3
QUESTION = "Which goods are sold by Tivi Ke?"
SHOWN = 3  # packages of a table
UNSET = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # what a user has not set

# Runs a command line and writes to a file the CPU seconds that the modules of each package took to import.
IMPORTS = """
import importlib.machinery as machinery, json, sys, time
spent, inner = {}, [0.0]
def measured(method):
    def run(loader, given):
        started = time.process_time()
        inner.append(0.0)
        try:
            return method(loader, given)
        finally:
            whole, within = time.process_time() - started, inner.pop()
            package = getattr(given, "__name__", getattr(given, "name", "")).partition(".")[0]
            spent[package] = spent.get(package, 0.0) + whole - within
            inner[-1] += whole
    return run
machinery.SourceFileLoader.exec_module = measured(machinery.SourceFileLoader.exec_module)
for name in ("create_module", "exec_module"):
    setattr(machinery.ExtensionFileLoader, name, measured(getattr(machinery.ExtensionFileLoader, name)))
try:
    from memfold.cli.main import run
    run(sys.argv[2:])
finally:
    with open(sys.argv[1], "w") as file:
        json.dump(spent | {"": time.process_time()}, file)
"""


@dataclass(frozen=True)
class Case:
    """A command line, the exit code it must have, and the seconds that it should take: of CPU, or of a clock.

    `spins`: its threads spin while they wait, as they do in PyTorch if nothing is set.
    """

    line: str
    code: int
    target: float
    clock: bool = False
    spins: bool = False

    @property
    def arguments(self) -> list[str]:
        """The arguments of the command; the question is one of them."""
        return [QUESTION if part == "Q" else part for part in self.line.split()]

    @property
    def shown(self) -> str:
        """The command line of a table."""
        return f"{'OMP_WAIT_POLICY=active ' * self.spins}memfold {self.line.replace(' Q', ' QUESTION')}"

    def within(self, environment: dict[str, str]) -> dict[str, str]:
        """The environment of its process."""
        return environment | ({"OMP_WAIT_POLICY": "active"} if self.spins else {})


CASES = (
    Case("--help", 0, 1.0),
    Case("ask nothing.txt Q", 2, 1.0),
    Case(f"ask {TEXT} Q --system poled", 2, 1.0),
    Case(f"ask {TEXT} Q --ratio 5", 2, 1.0),
    Case(f"ask {TEXT} Q --model no-one/nothing", 2, 2.0, clock=True),
    Case(f"ask {MEMORY} Q --ratio 4", 2, 1.0),
    Case(f"ask {MEMORY} --questions nothing.jsonl", 2, 1.0),
    Case(f"fold {TEXT} -o {TEXT}", 2, 1.0),
    Case("train bad.toml", 2, 1.0),
    Case("eval almanac --system poled", 2, 1.0),
    Case("bench fold --device tpu", 2, 1.0),
    Case("export tiny -o sample", 2, 1.0),
    Case(f"inspect {MEMORY}", 0, 1.0),
    Case("inspect replies.jsonl", 0, 1.0),
    Case(f"ask {MEMORY} Q", 0, 3.0),
    Case(f"ask {MEMORY} Q", 0, 3.0, spins=True),
)


def main() -> int:
    """Measure all cases; the exit code is 1 if a command did not end as it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=RESULTS / "startup.json")
    arguments = parser.parse_args()
    busy = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        _write_files(Path(folder), arguments.tokens)
        measured = measure(Path(folder), arguments.runs, _environment(arguments.threads))
    import torch

    from memfold.backbone.origin import commit, hardware  # which import torch: not beside what is measured
    from memfold.core.outputs import write_text

    threads = "" if arguments.threads is None else f" --threads {arguments.threads}"
    result = {
        "command": f"python benchmarks/startup.py --runs {arguments.runs} --tokens {arguments.tokens}{threads}",
        "commit": commit(),
        "hardware": hardware(torch.device("cpu")),
        "python": platform.python_version(),
        "load_before": round(busy, 2),
        "tokens": arguments.tokens,
        "cases": measured,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(arguments.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    print(table(measured), file=sys.stderr)
    return int(any(case["exit_code"] != case["expected_exit_code"] for case in measured))


def measure(folder: Path, runs: int, environment: dict[str, str]) -> list[dict[str, Any]]:
    """Run all cases in turn, `runs` times, and once more for their imports."""
    command = [sys.executable, "-m", "memfold"]
    cpu: list[list[float]] = [[] for _ in CASES]
    clock: list[list[float]] = [[] for _ in CASES]
    codes = [0] * len(CASES)
    for number in range(runs + 1):
        for index, case in enumerate(CASES):
            code, seconds, passed = process([*command, *case.arguments], folder, case.within(environment))
            if number:  # the first round fills the caches of files
                cpu[index].append(seconds)
                clock[index].append(passed)
                codes[index] = max(codes[index], code, key=lambda found: found != case.code)
    return [
        {
            "line": case.shown,
            "expected_exit_code": case.code,
            "exit_code": codes[index],
            "cpu_seconds": _summary(cpu[index]),
            "seconds": _summary(clock[index]),
            "target": {"of": "seconds" if case.clock else "cpu_seconds", "below": case.target},
            "reached": statistics.median(clock[index] if case.clock else cpu[index]) < case.target,
            "imports": imports(case, folder, case.within(environment)),
        }
        for index, case in enumerate(CASES)
    ]


def process(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, float, float]:
    """Run a process, and return its exit code, its CPU seconds and the seconds that passed."""
    started = time.perf_counter()
    child = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)  # it is reaped, and must not be waited for again
    return child.returncode, usage.ru_utime + usage.ru_stime, time.perf_counter() - started


def imports(case: Case, folder: Path, environment: dict[str, str]) -> dict[str, float]:
    """Return the CPU seconds that the modules of each package take to import, the largest first, and those of the rest.

    `other packages` are those below a hundredth of a second, `everything else` is what is not an import.
    """
    place = folder / "imports.json"
    process([sys.executable, "-c", IMPORTS, str(place), *case.arguments], folder, environment)
    spent = Counter(json.loads(place.read_text()))
    whole = spent.pop("")
    named = {package: round(seconds, 3) for package, seconds in spent.most_common() if seconds >= 0.01}
    rest = sum(spent.values()) - sum(named.values())
    return named | {"other packages": round(rest, 3), "everything else": round(whole - sum(spent.values()), 3)}


def table(measured: list[dict[str, Any]]) -> str:
    """Return the figures as Markdown."""
    lines = ["| command | CPU seconds | seconds | of which imports |", "|---|---|---|---|"]
    for case in measured:
        packages = [(name, seconds) for name, seconds in case["imports"].items() if name != "everything else"]
        total = sum(seconds for _, seconds in packages)
        largest = ", ".join(f"{name} {seconds:.2f}" for name, seconds in packages[:SHOWN])
        cpu, clock = case["cpu_seconds"]["median"], case["seconds"]["median"]
        lines.append(f"| `{case['line']}` | {cpu:.2f} | {clock:.2f} | {total:.2f}: {largest} |")
    return "\n".join(lines)


def _summary(seconds: list[float]) -> dict[str, Any]:
    return {"median": round(statistics.median(seconds), 3), "runs": [round(value, 3) for value in seconds]}


def _environment(threads: int | None) -> dict[str, str]:
    """Return the environment of the processes: nothing is set that changes threads, and no hub is asked."""
    kept = {name: value for name, value in os.environ.items() if name not in UNSET}
    return kept | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})


def _write_files(folder: Path, tokens: int) -> None:
    """Write the text, its memory, and the files that the commands refuse."""
    for line in (
        f"sample almanac --tokens {tokens} --seed {SEED} -o sample",
        f"fold {TEXT} -o {MEMORY}",
    ):
        command = [sys.executable, "-m", "memfold", *line.split()]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (folder / "bad.toml").write_text('stage = "base"\nstepps = 1\n')
    reply = {"case": "1", "system": "full", "kind": "", "question": "Q", "accepted": [], "reply": "A", "correct": True}
    (folder / "replies.jsonl").write_text(json.dumps(reply) + "\n")


if __name__ == "__main__":
    sys.exit(main())
