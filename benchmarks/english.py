"""Measure answers to questions about real English texts, with the full text, retrieval, a note, and no text at all.

    python benchmarks/english.py DATA [--questions 200] [--timed 10] [--model smollm2] [--out runs/english] [--quick]

DATA is a folder with files of SQuAD 2.0, HotpotQA, 2WikiMultihopQA and MuSiQue (docs/data.md); the first file whose
name contains that of a dataset is read.  `--questions` of each, spread evenly over the file, are asked by one run of
`memfold eval qa`.  Then `--timed` of them are asked one after another, as by a user, and timed.

Samples and times are kept in --out, and an interrupted run continues.  The result is written to
benchmarks/results/english-MACHINE.json, and docs/english.md is made from it; with --quick, ten questions of each
dataset are asked, and the result stays in --out.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from memfold.backbone.origin import commit, hardware
from memfold.core.outputs import write_text
from memfold.core.registry import CLOSED_BOOK
from memfold.core.types import Sample
from memfold.evaluation.table import Cell, Row, Table, mean, proportion
from memfold.tasks.datasets.table import load_dataset

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "english.md"
DATASETS = {"squad": "squad", "hotpotqa": "hotpotqa", "2wikimultihopqa": "2wikimultihopqa-dev", "musique": "musique"}
TITLES = {"squad": "SQuAD 2.0", "hotpotqa": "HotpotQA", "2wikimultihopqa": "2WikiMultihopQA", "musique": "MuSiQue"}
SYSTEMS = {
    "full": "the full text",
    "retrieval": "retrieval: the four best passages (BM25)",
    "recurrent/note=256": "a note of up to 256 tokens, rewritten chunk by chunk",
    CLOSED_BOOK: "nothing (closed book)",
}
TEXTS = {"context", "paragraphs", "data"}  # of a row, in one of the datasets
QUICK_QUESTIONS, QUICK_TIMED = 10, 2

Json = dict[str, Any]


def main() -> int:
    """Ask, time, and write the result; the exit code is that of the evaluation if it fails."""
    arguments = _arguments()
    files = {name: _spread(name, arguments) for name in DATASETS}
    command = evaluation(files, arguments)
    code = subprocess.run(
        [sys.executable, "-m", "memfold", *command], stdout=subprocess.DEVNULL, check=False
    ).returncode
    if code:
        return code
    times = list(measure_times(files, arguments))
    with (arguments.out / "questions" / "samples.jsonl").open(encoding="utf-8") as file:
        samples = [json.loads(line) for line in file]
    tables = [accuracy(samples, arguments.system), costs(times, arguments.system)]
    result = {
        "commit": commit(),
        "hardware": hardware(torch.device(arguments.device)),
        "model": arguments.model,
        "command": f"memfold {shlex.join(command)}",
        "questions": arguments.questions,
        "tables": [asdict(table) for table in tables],
        "times": times,
    }
    path = _result_path(result, arguments)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    if not arguments.quick:
        write_text(PAGE, page(result, tables))
    print("\n\n".join(table.markdown() for table in tables))
    return 0


def evaluation(files: dict[str, Path], arguments: argparse.Namespace) -> list[str]:
    """Return the words of the evaluation that asks all questions."""
    words = ["eval", "qa", "--model", arguments.model, "--device", arguments.device]
    words += [word for name, path in files.items() for word in ("--data", f"{name}={path}")]
    words += [word for system in arguments.system for word in ("--system", system)]
    return [*words, "--questions", str(arguments.questions * len(files)), "--out", str(arguments.out / "questions")]


def _spread(name: str, arguments: argparse.Namespace) -> Path:
    """Write the questions of a dataset that are asked, spread evenly over its file, and return their file."""
    (source,) = sorted(arguments.data.glob(f"*{DATASETS[name]}*.jsonl"))[:1] or [None]
    if source is None:
        sys.exit(f"{arguments.data} has no .jsonl file with {DATASETS[name]!r} in its name")
    with source.open(encoding="utf-8") as file:  # the published 2WikiMultihopQA has rows without a text
        lines = [line.rstrip("\n") for line in file if line.strip() and TEXTS & json.loads(line).keys()]
    path: Path = arguments.out / "data" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(f"{line}\n" for line in evenly(lines, arguments.questions)))
    return path


def evenly(items: Sequence[Any], count: int) -> list[Any]:
    """Return `count` items at even distances, the first of them included; all items if there are no more.

    >>> evenly([0, 1, 2, 3, 4, 5, 6], 3)
    [0, 2, 4]
    """
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def measure_times(files: dict[str, Path], arguments: argparse.Namespace) -> Iterator[Json]:
    """Yield the time of single questions, those of an earlier run first."""
    path = arguments.out / "times.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    known = {(each["dataset"], each["system"], each["question"]): each for each in map(json.loads, lines)}
    for name, file in files.items():
        for sample in evenly(list(load_dataset(name, file)), arguments.timed):
            for system in (system for system in arguments.system if system != CLOSED_BOOK):
                key = (name, system, sample.question)
                if key not in known:
                    known[key] = dict(zip(("dataset", "system", "question"), key, strict=True))
                    known[key] |= _timed(sample, system, arguments)
                    with path.open("a", encoding="utf-8") as written:
                        written.write(json.dumps(known[key], ensure_ascii=False) + "\n")
                yield known[key]


def _timed(sample: Sample, system: str, arguments: argparse.Namespace) -> Json:
    """Ask one question with one system; the model is loaded before."""
    from memfold import api
    from memfold.evaluation.candidate import make_candidate
    from memfold.session import Session, load

    model = load(arguments.model, arguments.device)
    session = Session(make_candidate(system, model).system, model)
    memory = api.fold_documents([sample.document], session)
    started = time.process_time()
    response = memory.ask(sample.question)
    return {
        "tokens": response.usage["document_tokens"],
        "first_token": response.seconds["first_token"],
        "seconds": round(response.trace.cost.seconds, 4),
        "cpu_seconds": round(time.process_time() - started, 4),
        "written": response.usage["generated_tokens"],
    }


def accuracy(samples: Sequence[Json], systems: Sequence[str]) -> Table:
    """Return the share of questions whose reply holds an accepted answer."""
    rows = []
    for system in systems:
        own = [sample for sample in samples if sample["system"] == system]
        by_dataset = [[sample for sample in own if sample["case"].split("/")[1] == name] for name in DATASETS]
        cells = [
            proportion([bool(each["correct"]) for each in some], sum(each["error"] is not None for each in some))
            for some in (own, *by_dataset)
        ]
        rows.append(Row((SYSTEMS.get(system, system),), tuple(cells)))
    note = "Share of replies that hold an accepted answer, after normalisation."
    return Table("Right answers", ("the model reads",), ("all", *TITLES.values()), tuple(rows), note)


def costs(times: Sequence[Json], systems: Sequence[str]) -> Table:
    """Return what one question costs: seconds to the first token and to the end, tokens read and written."""
    columns = {
        "tokens": "tokens of the text",
        "first_token": "seconds to the first token",
        "seconds": "seconds to the end",
        "cpu_seconds": "CPU seconds",
        "written": "tokens written",
    }
    rows = []
    for system in systems:
        own = [each for each in times if each["system"] == system]
        cells: list[Cell] = [mean([float(each[name]) for each in own]) for name in columns]
        if own:
            rows.append(Row((SYSTEMS.get(system, system),), tuple(cells)))
    note = "Means over single questions, asked one after another; the model is loaded and the text is tokenised before."
    return Table("Time of a question", ("the model reads",), tuple(columns.values()), tuple(rows), note)


def page(result: Json, tables: Sequence[Table]) -> str:
    """Return docs/english.md."""
    machine = result["hardware"]
    head = [
        "# Real English texts",
        "",
        f"Questions of public datasets about their own texts, {result['questions']} of each, answered by the model "
        f"`{result['model']}` ([usage.md](usage.md#an-english-model)). This page is generated by "
        "`python benchmarks/english.py DATA`, with DATA as in [data.md](data.md).",
        "",
        f"Machine: {machine.get('gpu', machine['cpu'])}, {machine['threads']} threads, torch {machine['torch']}; "
        f"commit {(result['commit'] or 'unknown')[:10]}. Cells: figure [95 % interval] sample size.",
    ]
    return "\n".join([*head, *("\n" + table.markdown() for table in tables)]) + "\n"


def _result_path(result: Json, arguments: argparse.Namespace) -> Path:
    machine = result["hardware"]
    model = "" if arguments.model == "smollm2" else f"-{arguments.model}"
    name = re.sub(r"[^a-z0-9.]+", "-", f"english-{machine.get('gpu', machine['cpu'])}{model}".lower()).strip("-")
    folder: Path = arguments.out if arguments.quick else RESULTS
    return folder / f"{name}.json"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder with the files of the datasets")
    parser.add_argument("--questions", type=int, default=200, help="of each dataset")
    parser.add_argument("--timed", type=int, default=10, help="of each dataset, one by one")
    parser.add_argument("--system", action="append", help=f"repeatable; by default {', '.join(SYSTEMS)}")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="a first look at ten questions of each dataset")
    parser.add_argument("--out", type=Path, default=Path("runs/english"))
    arguments = parser.parse_args()
    arguments.system = arguments.system or list(SYSTEMS)
    if arguments.quick:
        arguments.questions, arguments.timed = QUICK_QUESTIONS, QUICK_TIMED
        arguments.out = arguments.out / "quick"
    return arguments


if __name__ == "__main__":
    sys.exit(main())
