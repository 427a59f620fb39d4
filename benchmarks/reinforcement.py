"""Compare models trained by reinforcement learning with the supervised model they start from, on the same questions.

    python benchmarks/reinforcement.py frozen-16x runs/pooled-tiny-sft-free runs/pooled-tiny-rl [OTHER SEEDS ...]
    python benchmarks/reinforcement.py frozen-64x runs/pooled-tiny-sft-64x runs/pooled-tiny-rl-64x --ratio 64
    python benchmarks/reinforcement.py                          # only write the page

The models must have been trained before (`memfold train`).  The supervised model answers with the full text, with
retrieved passages, and from slots in every reply style; the trained models answer from slots in the free style.  The
result is benchmarks/results/reinforcement/NAME.json, and docs/reinforcement.md is generated from these files.  An
interrupted comparison resumes from the samples in --out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from reinforcement_page import picture_name, render
from reinforcement_statistics import (
    BASELINES,
    FREE,
    PARENT,
    STYLED,
    TRAINED,
    Comparison,
    Outcomes,
    read_comparisons,
    training_summary,
)
from reinforcement_suites import SuiteRun, suite_runs

from memfold.backbone.model import Backbone
from memfold.backbone.origin import commit, hardware
from memfold.core.errors import MemfoldError
from memfold.core.outputs import whole_file, write_text
from memfold.core.prompt import recalled
from memfold.evaluation.candidate import make_candidate
from memfold.evaluation.expansion import expansion_table
from memfold.evaluation.records import Record
from memfold.evaluation.runner import Evaluation, run
from memfold.evaluation.suite import load_suite
from memfold.evaluation.table import Table
from memfold.session import open_session

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "reinforcement"
PAGE = ROOT / "docs" / "reinforcement.md"

Records = dict[str, list[Record]]  # label -> records


def main() -> int:
    """Run the comparison, if one is named, then write the page."""
    arguments = _arguments()
    try:
        if arguments.name:
            _run_comparison(arguments)
        write_text(arguments.page, render(read_comparisons(arguments.results)))
    except MemfoldError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def compare(name: str, models: Mapping[str, Path], ratio: int, runs: Sequence[SuiteRun], out: Path) -> Comparison:
    """Run every suite with every model; samples that are in `out` already are not run again.

    Raises:
        ConfigError: before anything runs, if a suite rejects its options or a trained model is not a run of
            reinforcement learning.
    """
    for suite_run in runs:
        load_suite(suite_run.suite).check(suite_run.options)
    trained = {label: training_summary(folder) for label, folder in models.items() if label != PARENT}
    sessions = {label: open_session("pooled", str(folder), ratio) for label, folder in models.items()}
    backbones = {label: session.model.weights() for label, session in sessions.items()}
    outcomes: dict[str, dict[str, Outcomes]] = {}
    recalls: dict[str, dict[str, Outcomes]] = {}
    failed: dict[str, int] = {}
    expansion: Table | None = None
    for suite_run in runs:
        by_label: Records = {}
        for label, folder in models.items():
            by_label |= _records(suite_run, label, backbones[label], ratio, out / folder.name)
        print(f"{name}: {suite_run.suite}{suite_run.settings} done", file=sys.stderr)
        for label, records in by_label.items():
            failed[label] = failed.get(label, 0) + sum(record.error is not None for record in records)
        for row, measure in suite_run.rows.items():
            outcomes[row] = {label: measure.outcomes(records) for label, records in by_label.items()}
        if suite_run.expansion:
            labelled = [replace(record, system=label) for label, records in by_label.items() for record in records]
            expansion = expansion_table(labelled, list(by_label), "Implicit expansion")
            recalls = _recalls(by_label)
    return Comparison(
        name=name,
        system=f"pooled:{ratio}",
        models={label: str(folder) for label, folder in models.items()},
        trained=trained,
        outcomes=outcomes,
        recalls=recalls,
        failed=failed,
        expansion=asdict(expansion) if expansion else {},
        commit=commit(),
        hardware=hardware(backbones[PARENT].device),
    )


def _run_comparison(arguments: argparse.Namespace) -> None:
    """Compare the models and write the result file and the training curves."""
    parent, *trained = arguments.models
    models = {PARENT: parent} | {f"{TRAINED} {number}": folder for number, folder in enumerate(trained, 1)}
    runs = suite_runs(arguments.questions, arguments.fewer)
    selected = [suite_run for suite_run in runs if not arguments.suite or suite_run.suite in arguments.suite]
    comparison = compare(arguments.name, models, arguments.ratio, selected, arguments.out / arguments.name)
    arguments.results.mkdir(parents=True, exist_ok=True)
    for label in comparison.trained:
        curves = models[label] / "curves.png"
        if curves.exists():
            with whole_file(arguments.results / picture_name(arguments.name, label)) as partial:
                shutil.copyfile(curves, partial)
    write_text(arguments.results / f"{arguments.name}.json", json.dumps(asdict(comparison)) + "\n")


def _records(suite_run: SuiteRun, label: str, backbone: Backbone, ratio: int, out: Path) -> Records:
    """Run a suite with one model: the records of the model, and of all systems that use it."""
    systems = {label: f"pooled:{ratio}/{FREE}{suite_run.settings}"}
    if label == PARENT:
        systems |= {baseline: baseline for baseline in suite_run.baselines}
        if suite_run.styled:
            systems |= {styled: f"pooled:{ratio}/{style}{suite_run.settings}" for styled, style in STYLED.items()}
    candidates = tuple(make_candidate(system, backbone) for system in systems.values())
    evaluation = Evaluation(load_suite(suite_run.suite), suite_run.options, candidates, backbone)
    options, settings = suite_run.options, suite_run.settings.removeprefix("/")
    folder = "-".join((suite_run.suite, str(options.level), *options.splits, str(options.lengths[0]), settings))
    records = run(evaluation, out / folder.rstrip("-"))
    return {key: [record for record in records if record.system == system] for key, system in systems.items()}


def _recalls(by_label: Records) -> dict[str, dict[str, Outcomes]]:
    """Whether each reply recalls first, by kind of question, for the models that choose whether to."""
    free = {label: records for label, records in by_label.items() if label not in (*BASELINES, *STYLED)}
    kinds = list(dict.fromkeys(record.kind for records in free.values() for record in records))
    return {
        kind: {
            label: {record.case: float(bool(recalled(record.reply))) for record in records if record.kind == kind}
            for label, records in free.items()
        }
        for kind in kinds
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="name of the comparison; without it only the page is written")
    parser.add_argument("models", nargs="*", type=Path, help="the supervised run, then the runs trained from it")
    parser.add_argument("--ratio", type=int, default=16)
    parser.add_argument("--questions", type=int, default=1000, help="for each split of the almanac")
    parser.add_argument(
        "--fewer", type=int, default=0, help="size of the slower suites; by default a fifth of --questions"
    )
    suites = list(dict.fromkeys(suite_run.suite for suite_run in suite_runs(1000)))
    parser.add_argument("--suite", action="append", choices=suites, help="run only this suite; repeatable")
    parser.add_argument("--out", type=Path, default=Path("runs/reinforcement"), help="folder of the samples")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    if arguments.name and len(arguments.models) < 2:
        parser.error("a comparison needs the supervised run and at least one run trained from it")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
