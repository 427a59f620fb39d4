"""Measure docs/trust.md: which inventions are marked, which questions are refused, which texts are warned about.

    python benchmarks/trust.py [--questions 500] [--data NAME=PATH ...] [--out runs/trust]

Two evaluations of the almanac suite, level 3, ask every system the same questions: half of them are answered by their
text, half are not.  They are made by `memfold eval` and can be interrupted: samples in --out are not asked again.  The
checks of `memfold ask` are then applied to the replies.  Foreign texts and almanac texts are folded and asked about,
and reading the text again is timed, one question after another.  --data adds names in questions of public datasets
(docs/data.md).

The result is --out/result.json.  `python benchmarks/pooled.py trust` runs this command and keeps its result for
docs/results.md and docs/trust.md; options follow after `--`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import trust_answers as answers
import trust_foreign as foreign

from memfold import api
from memfold.backbone.origin import commit, hardware
from memfold.core.outputs import write_text
from memfold.evaluation.suite import Case, Options, load_suite
from memfold.evaluation.table import Row, Table, mean
from memfold.session import open_session
from memfold.systems.shared.citations import sentence_index
from memfold.tasks.almanac.questions import ABSENT_KIND

LEVEL, SPLIT, LENGTHS = 3, "in", (128, 256, 512, 1024)
SETS: dict[str, tuple[str, ...]] = {"answerable": (), "absent": (ABSENT_KIND,)}
TIMED, TIMED_LENGTH = 48, 512  # questions that are timed, and the tokens of their texts
ALMANAC_TEXTS = 240
UNFOLD = 256
NEVER = "never"

Json = dict[str, Any]


def main() -> int:
    """Run both evaluations, then everything else; the exit code is that of the first command that fails."""
    arguments = _arguments()
    for name in SETS:
        command = [sys.executable, "-m", "memfold", *evaluation(name, arguments)]
        code = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
        if code:
            return code
    started = time.perf_counter()
    outcomes = [each for name in SETS for each in _outcomes(name, arguments)]
    texts = foreign.measure(arguments.model, arguments.device, min(ALMANAC_TEXTS, 2 * arguments.questions))
    timed = measure_times(arguments, min(TIMED, arguments.questions))
    named = foreign.names(arguments.data, arguments.questions)
    tables = [*answers.tables(outcomes), times_table(timed), foreign.familiarity_table(texts)]
    tables += [foreign.names_table(named)] if named else []
    result = {
        "commit": commit(),
        "hardware": hardware(torch.device(arguments.device)),
        "model": arguments.model,
        "arguments": {"questions": arguments.questions, "level": LEVEL, "split": SPLIT, "lengths": LENGTHS},
        "seconds": round(time.perf_counter() - started, 1),
        "tables": [asdict(table) for table in tables],
        "records": {"answers": answers.record(outcomes), "texts": texts, "times": timed, "names": named},
        "plots": [],
    }
    write_text(arguments.out / "result.json", json.dumps(result, ensure_ascii=False) + "\n")
    print("\n\n".join(table.markdown() for table in tables))
    return 0


def evaluation(name: str, arguments: argparse.Namespace) -> list[str]:
    """The words of the evaluation that asks a set of questions."""
    lengths = ",".join(map(str, LENGTHS))
    words = ["eval", "almanac", "--level", str(LEVEL), "--split", SPLIT, "--lengths", lengths]
    words += [word for kind in SETS[name] for word in ("--kind", kind)]
    words += [word for system in answers.SYSTEMS for word in ("--system", system)]
    words += ["--questions", str(arguments.questions), "--model", arguments.model, "--device", arguments.device]
    return [*words, "--out", str(arguments.out / name)]


def _outcomes(name: str, arguments: argparse.Namespace) -> Iterator[answers.Outcome]:
    """Yield the samples of an evaluation with what the checks say about them."""
    cases = {case.key: case for case in _cases(name, arguments.questions, LENGTHS, arguments.model, arguments.device)}
    with (arguments.out / name / "samples.jsonl").open(encoding="utf-8") as file:
        for sample in map(json.loads, file):
            case = cases[sample["case"]]
            assert sample["question"] == case.sample.question, "the same question was generated again"
            yield answers.outcome(sample, case)


def _cases(name: str, questions: int, lengths: Sequence[int], model: str, device: str) -> Iterator[Case]:
    options = Options(tuple(lengths), questions, splits=(SPLIT,), level=LEVEL, kinds=SETS[name])
    return load_suite("almanac").cases(options, open_session(model=model, device=device).model)


def measure_times(arguments: argparse.Namespace, questions: int) -> list[Json]:
    """Ask questions one by one, reading the text again never, in doubt and always; seconds without folding.

    The order of the three changes from question to question.  The first question is asked once more than it counts.
    """
    session = open_session(model=arguments.model, device=arguments.device)
    records: list[Json] = []
    for number, case in enumerate(_cases("answerable", questions, [TIMED_LENGTH], arguments.model, arguments.device)):
        folded = api.fold_documents([case.sample.document], session)
        sentence_index(folded.memory)  # is made once for a memory
        modes = {NEVER: folded.doubting(0), "in doubt": folded.doubting(UNFOLD), "always": folded.unfolding(UNFOLD)}
        if number == 0:
            folded.ask(case.sample.question)
        for mode in [*modes, *modes][number % 3 : number % 3 + 3]:
            cost = modes[mode].ask(case.sample.question).trace.cost
            known = {"question": number, "mode": mode, "seconds": round(cost.seconds, 4)}
            records.append(known | {"tokens": cost.generated_tokens})
    return records


def times_table(records: Sequence[Json]) -> Table:
    """Seconds and written tokens of an answer, divided by those of the same answer without reading the text again."""
    never = {each["question"]: each for each in records if each["mode"] == NEVER}
    rows = []
    for mode in (NEVER, "in doubt", "always"):
        own = [each for each in records if each["mode"] == mode]
        cells = (mean([each[key] / never[each["question"]][key] for each in own]) for key in ("seconds", "tokens"))
        rows.append(Row((mode,), tuple(cells)))
    note = f"Questions about {TIMED_LENGTH} tokens, one by one, all three modes; each question relative to never."
    return Table("Cost of reading again", ("text is read again",), ("seconds", "written tokens"), tuple(rows), note)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=500, help="of each of the two sets")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=PATH", help="a file of a public dataset")
    parser.add_argument("--out", type=Path, default=Path("runs/trust"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
