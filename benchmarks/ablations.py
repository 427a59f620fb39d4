"""Compare settings of pooled memory with one baseline on one budget: train rows, measure them, write the page.

    python benchmarks/ablations.py                              # all rows of recipes/pooled/ablations
    python benchmarks/ablations.py baseline window-64 --steps 200 --runs /tmp/ablations --results /tmp/ablations/results
    python benchmarks/ablations.py --page-only

A row is trained (an interrupted run resumes) and measured on the same held-out samples as all others.  Its result is
benchmarks/results/ablations/ROW.json; a row that has one is not run again.  The page, docs/ablations.md, is generated
from these files alone.  A row takes about six minutes on two cores; `--steps` sets the number of steps of every row.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from memfold.api import fold_documents
from memfold.backbone.model import Backbone
from memfold.backbone.origin import commit, hardware
from memfold.backbone.score import logprobs
from memfold.bench.timing import rounds
from memfold.cli.output import notes
from memfold.cli.training import training
from memfold.core.document import Document
from memfold.core.errors import MemfoldError, unknown
from memfold.core.outputs import write_text
from memfold.evaluation.ablations import BASELINE, LOSSES, Result, draw_curves, page, read_results, write_result
from memfold.evaluation.candidate import make_candidate
from memfold.evaluation.records import Record
from memfold.evaluation.runner import Evaluation, run
from memfold.evaluation.suite import Options, document_seed, load_suite
from memfold.session import Session, open_session
from memfold.tasks.almanac.task import almanac
from memfold.tasks.task import TaskOptions
from memfold.training import checkpoint
from memfold.training.batches import batch
from memfold.training.curves import read_metrics
from memfold.training.loop import train
from memfold.training.recipe import Recipe, read_recipe

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes" / "pooled" / "ablations"
RESULTS = ROOT / "benchmarks" / "results" / "ablations"
PAGE = ROOT / "docs" / "ablations.md"
SYSTEM, LEVEL, SPLIT = "pooled:16", 1, "in"
FOLDED_TOKENS = 2048
HELD_OUT = "ablations"
CURVES = ("almanac", "reconstruction", "continuation")


@dataclass(frozen=True)
class Measuring:
    """The samples that every row is measured on: the lengths of documents, and how many samples of each kind."""

    lengths: tuple[int, ...] = (128, 512)
    questions: int = 200
    texts: int = 40
    batches: int = 12
    fold_runs: int = 10


def main() -> int:
    """Run the rows without a result, then write the page."""
    arguments = _arguments()
    measuring = Measuring(
        arguments.lengths, arguments.questions, arguments.texts, arguments.batches, arguments.fold_runs
    )
    try:
        for name in [] if arguments.page_only else rows(arguments.rows):
            if not (arguments.results / f"{name}.json").exists():
                run_row(name, arguments.runs / name, arguments.results, measuring, arguments.steps)
            write_page(arguments.results, arguments.page)
        write_page(arguments.results, arguments.page)
    except MemfoldError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def rows(names: Sequence[str]) -> list[str]:
    """The named rows, or all of them with the baseline first.

    Raises:
        ConfigError: for a name without a recipe; it suggests the nearest name.
    """
    known = sorted((path.stem for path in RECIPES.glob("*.toml")), key=lambda name: (name != BASELINE, name))
    for name in names:
        if name not in known:
            raise unknown("row", name, known)
    return list(names) or known


def run_row(name: str, folder: Path, results: Path, measuring: Measuring, steps: int | None) -> Result:
    """Train the model of a row if it is missing, measure it, and write the result."""
    recipe = read_recipe(RECIPES / f"{name}.toml")
    recipe = recipe if steps is None else replace(recipe, steps=steps)
    print(f"{name}: {recipe.steps} steps in {folder}", file=sys.stderr)
    _train(recipe, folder)
    result = _measure(name, recipe, folder, measuring)
    write_result(result, results)
    return result


def write_page(results: Path, path: Path) -> None:
    """Write the page and the picture of the curves beside it."""
    measured = read_results(results)
    picture = draw_curves(measured, path.with_suffix(".png"))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page(measured, picture.name if picture else None))


def _train(recipe: Recipe, folder: Path) -> None:
    if (folder / "model").is_dir():
        checkpoint.check_recipe(folder, _as_json(recipe))
        return
    with training(recipe.steps) as report:
        train(recipe, folder, any(folder.glob("step-??????")), report)


def _measure(name: str, recipe: Recipe, folder: Path, measuring: Measuring) -> Result:
    session = open_session("pooled", str(folder), 16)
    backbone = session.model.weights()
    options = Options(measuring.lengths, measuring.questions, (SPLIT,), LEVEL)
    answers = _records("almanac", options, folder)
    texts = _records("reconstruction", replace(options, questions=measuring.texts), folder)
    metrics = read_metrics(folder)
    last = metrics[-1]
    fold_times = _fold_times(session, folder.parent / BASELINE, measuring.fold_runs) if name != BASELINE else []
    return Result(
        row=name,
        changed=_changed(recipe),
        trained={"steps": last["step"], "tokens": last["tokens"], "tokens_per_second": last["tokens_per_second"]},
        asked=asdict(measuring) | {"system": SYSTEM, "level": LEVEL, "split": SPLIT},
        one_hop={record.case: float(record.correct) for record in answers if record.hops == 1},
        losses=_losses(recipe, backbone, measuring.batches),
        rouge={record.case: record.figures.get("rougeL", 0.0) for record in texts},
        fold_times=fold_times,
        effective_ratio=session.system.effective_ratio(max(measuring.lengths)) or 0.0,
        curves=_curves(metrics),
        fingerprint=backbone.fingerprint(),
        commit=commit(),
        hardware=hardware(backbone.device),
    )


def _changed(recipe: Recipe) -> dict[str, Any]:
    """The keys of a row that differ from the baseline, those of its settings and its mixture included."""
    row, baseline = _as_json(recipe), _as_json(read_recipe(RECIPES / f"{BASELINE}.toml"))
    changed = {key: value for key, value in row["settings"].items() if baseline["settings"].get(key) != value}
    for entry, baseline_entry in zip(row["mixture"], baseline["mixture"], strict=False):
        changed |= {key: value for key, value in entry.items() if baseline_entry[key] != value}
    for key in row.keys() - {"settings", "mixture", "steps"}:
        if row[key] != baseline[key]:
            changed[key] = row[key]
    return changed


def _as_json(recipe: Recipe) -> dict[str, Any]:
    """A recipe as a file has it, with lists for tuples."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return values


def _records(suite: str, options: Options, folder: Path) -> list[Record]:
    """The records of a suite on the same samples for every row; samples on disk are not run again."""
    backbone = open_session("pooled", str(folder), 16).model.weights()
    evaluation = Evaluation(load_suite(suite), options, (make_candidate(SYSTEM, backbone),), backbone)
    evaluation.suite.check(options)
    records = run(evaluation, folder / suite)
    failed = [record.error for record in records if record.error is not None]
    if failed:
        notes().print(f"{suite}: {len(failed)} samples failed and count as wrong: {failed[0]}", markup=False)
    return records


@torch.no_grad()
def _losses(recipe: Recipe, backbone: Backbone, batches: int) -> dict[str, dict[str, float]]:
    """The loss per token, in nats, of the right replies to the same held-out samples of the baseline's mixture."""
    baseline = read_recipe(RECIPES / f"{BASELINE}.toml")
    with_settings = replace(baseline, settings=recipe.settings)
    losses: dict[str, dict[str, float]] = {task: {} for task in LOSSES}
    for entry in (entry for entry in baseline.mixture if entry.system == "pooled" and entry.task in LOSSES):
        for number in range(batches):
            work = batch(with_settings, backbone, number, HELD_OUT, entry)
            for index, (stretch, values, _) in enumerate(logprobs(backbone, work.system, work.scored).parts()):
                losses[entry.task][f"{number}/{index}"] = round(-float(values.sum()) / stretch.count, 6)
    return losses


def _fold_times(session: Session, baseline: Path, runs: int) -> list[float]:
    """The folding time relative to the baseline, round by round."""
    seed = document_seed("ablations", FOLDED_TOKENS)
    sample = almanac(seed, FOLDED_TOKENS, TaskOptions(), session.model.encode)[0]
    document = Document(sample.document.source, text=sample.document.read())
    sessions = {"row": session, "baseline": open_session("pooled", str(baseline), 16)}
    actions = {name: partial(fold_documents, [document], folding) for name, folding in sessions.items()}
    seconds = rounds(actions, session.model.weights(), 3, runs)
    return [round(time / base, 6) for time, base in zip(seconds["row"], seconds["baseline"], strict=True)]


def _curves(metrics: list[dict[str, Any]]) -> dict[str, list[list[float]]]:
    """Token accuracy of held-out answers from slots, by task."""
    curves: dict[str, list[list[float]]] = {}
    for line in metrics:
        for label, values in line.get("validation", {}).items():
            task = label.partition(":")[2].removeprefix("pooled/").removesuffix("/answer")
            if task in CURVES:
                curves.setdefault(task, []).append([line["step"], values["accuracy"]])
    return curves


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Measuring()
    parser.add_argument("rows", nargs="*", help="names of rows; all by default")
    parser.add_argument("--steps", type=int, help="training steps of every row; those of the baseline by default")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/ablations"), help="folder of the training runs and samples"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--page-only", action="store_true", help="only write the page")
    lengths_help = "lengths of documents, in tokens"
    parser.add_argument("--lengths", type=_numbers, default=default.lengths, metavar="N,N", help=lengths_help)
    parser.add_argument("--questions", type=int, default=default.questions, help="questions for each row")
    parser.add_argument("--texts", type=int, default=default.texts, help="texts that each row reconstructs")
    parser.add_argument(
        "--batches", type=int, default=default.batches, help="batches of right replies that are scored, for each task"
    )
    parser.add_argument(
        "--fold-runs", type=int, default=default.fold_runs, help="timed folds of each row and the baseline"
    )
    return parser.parse_args()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
