"""`memfold eval`: compares systems on a suite, and writes samples, tables, JSON and plots to a folder.

    memfold eval almanac --system full --system pooled --ratio 4 --ratio 16 --lengths 128,256
    memfold eval qa --data squad=dev.json --model http://localhost:8000/v1#some-model --sampling paper

An interrupted run continues where it stopped; without --out, the folder is named after the arguments.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memfold.cli.options import CPU, Device, Json, MaxTokens, Model, check_model, model_dtype, numbers
from memfold.cli.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from memfold.core.model import Model as AnyModel
    from memfold.evaluation.runner import Evaluation, OnRecord
    from memfold.evaluation.suite import Options, Suite

NAME = "eval"

SuiteName = Annotated[
    str,
    typer.Argument(
        metavar="SUITE",
        help="almanac, needle, strings, multihop, ruler, ruler-hqa, qa, longbench-v2, fidelity or reconstruction "
        "(docs/suites.md).",
    ),
]
Systems = Annotated[
    list[str] | None,
    typer.Option(
        "--system", help="NAME[:RATIO][/STYLE][/SETTING=VALUE], such as pooled:16/bare, or closed-book; repeatable."
    ),
]
Ratios = Annotated[
    list[int] | None, typer.Option("--ratio", help="Tokens per slot, for systems with slots; repeatable.")
]
Lengths = Annotated[str | None, typer.Option("--lengths", help="Document lengths in tokens, such as 128,256.")]
Questions = Annotated[
    int | None, typer.Option("--questions", help="Number of questions, spread over splits and lengths.")
]
Splits = Annotated[
    list[str] | None, typer.Option("--split", help="in or out of distribution; both by default; repeatable.")
]
Level = Annotated[int | None, typer.Option("--level", help="Difficulty of the questions, 0 to 3.")]
Cells = Annotated[
    str | None,
    typer.Option(
        "--cells",
        help="even; or for each split and length graded: 1,000 questions up to 4K tokens, 128 up to 32K, 32 beyond; "
        "long: 256 up to 224K, 64 up to 896K, 16 beyond.",
    ),
]
Sampling = Annotated[
    str | None, typer.Option("--sampling", help="greedy (default), or as in a publication: paper (pooled), memagent.")
]
Depths = Annotated[
    int | None, typer.Option("--depths", help="needle: number of depths, from the beginning to the end.")
]
Needles = Annotated[int | None, typer.Option("--needles", help="needle: number of values in an answer.")]
Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--kind",
        help="needle, strings: number, word, code, uuid, date, name; multihop: two-hop, tracking; ruler: needle, "
        "multi-key, multi-value, multi-query, tracking, common-words, frequent-words, qa; ruler-hqa: one-hop, two-hop; "
        "repeatable.",
    ),
]
Hidden = Annotated[
    Path | None, typer.Option("--text", help="needle, strings: text file in which the answers are hidden.")
]
Haystack = Annotated[
    str | None, typer.Option("--haystack", help="strings: text in which the answers are hidden, filler or almanac.")
]
PerDocument = Annotated[int | None, typer.Option("--per-document", help="Number of questions about each document.")]
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data", help="qa, multihop, ruler-hqa, longbench-v2: NAME=PATH of a local file or folder; repeatable."
    ),
]
TrainedOn = Annotated[
    list[str] | None,
    typer.Option("--trained-on", help="qa, multihop, ruler-hqa: dataset that the model was trained on; repeatable."),
]
Judged = Annotated[
    str | None,
    typer.Option("--judge", help="qa, longbench-v2: model that judges the answers, http://HOST/v1#NAME."),
]


def command(
    suite: SuiteName,
    system: Systems = None,
    model: Model = "tiny",
    lengths: Lengths = None,
    questions: Questions = None,
    cells: Cells = None,
    sampling: Sampling = None,
    max_tokens: MaxTokens = None,
    level: Level = None,
    split: Splits = None,
    ratio: Ratios = None,
    depths: Depths = None,
    needles: Needles = None,
    kind: Kinds = None,
    text: Hidden = None,
    haystack: Haystack = None,
    per_document: PerDocument = None,
    data: Data = None,
    trained_on: TrainedOn = None,
    judged_by: Judged = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Result folder; an interrupted run continues.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Another seed gives other documents.")] = None,
    device: Device = None,
    quick: Annotated[bool, typer.Option("--quick", help="Use a few short documents, for a first look.")] = False,
    as_json: Json = False,
) -> None:
    """Compare systems on a suite of questions.

    The result folder gets tables with 95 % intervals, plots, and samples.jsonl with one line for each sample.
    """
    from memfold.evaluation.candidate import check_labels, make_candidate, with_ratios
    from memfold.evaluation.plots import load_pyplot
    from memfold.evaluation.runner import Evaluation
    from memfold.evaluation.suite import load_suite, with_options
    from memfold.scoring.judge import open_judge
    from memfold.session import check_reached, load

    chosen = load_suite(suite)
    given = {
        "lengths": numbers(lengths),
        "questions": questions,
        "per_cell": cells,
        "sampling": sampling,
        "max_tokens": max_tokens,
        "level": level,
        "splits": tuple(split) if split else None,
        "per_document": per_document,
        "seed": seed,
        "depths": depths,
        "needles": needles,
        "kinds": tuple(kind) if kind else None,
        "text": str(text) if text else None,
        "haystack": haystack,
        "data": tuple(data) if data else None,
        "trained_on": tuple(trained_on) if trained_on else None,
        "judge": judged_by,
    }
    options = with_options(chosen, chosen.quick if quick else chosen.defaults, given)
    check_labels(system or chosen.candidates)
    chosen.check(options)
    check_model(model, device)
    if out is not None:
        _check_out(out, chosen, options, model)
    judge = open_judge(options.judge) if options.judge else None
    load_pyplot()
    loaded = load(model, device or CPU, model_dtype(device or CPU))
    labels = list(system or _readable(chosen, loaded))
    spread = with_ratios(labels, ratio or (), loaded)
    candidates = tuple(make_candidate(label, loaded, options.max_tokens) for label in spread)
    check_reached(loaded)
    _measure(Evaluation(chosen, options, candidates, loaded, judge), out, as_json)


def _check_out(out: Path, suite: Suite, options: Options, model: str) -> None:
    """Refuse a folder that the results cannot go to, before a model is loaded."""
    from memfold.cli.inputs import model_files
    from memfold.evaluation.records import check_results
    from memfold.evaluation.suite import arguments_of

    read = [options.text, *(entry.partition("=")[2] for entry in options.data)]
    check_results(out, arguments_of(suite, options), [*map(Path, filter(None, read)), *model_files(model)], partly=True)


def _readable(suite: Suite, model: AnyModel) -> list[str]:
    """Return the systems that a suite compares by default, without those that this model cannot read."""
    from memfold.cli.output import notes
    from memfold.core.errors import ConfigError
    from memfold.evaluation.candidate import readable

    labels = readable(suite.candidates, model)
    left_out = ", ".join(label for label in suite.candidates if label not in labels)
    why = f"{left_out}: model {model.name!r} is an endpoint and reads text, not slots"
    if not labels:
        raise ConfigError(f"suite {suite.name!r} compares {why}; give a --model with weights here")
    if left_out:
        notes().print(f"left out {why}", markup=False)
    return labels


def _measure(evaluation: Evaluation, out: Path | None, as_json: bool) -> None:
    """Run an evaluation, write its report, and show it."""
    import time

    from memfold.cli.output import Interrupted, notes, print_json
    from memfold.core.lock import locked
    from memfold.core.outputs import writing
    from memfold.evaluation.records import SAMPLES_FILE, TABLE_FILE
    from memfold.evaluation.report import write_report
    from memfold.evaluation.runner import run

    folder = out or _folder(evaluation)
    started = time.perf_counter()
    with locked(folder) as lock:
        try:
            with _progress(evaluation) as count:
                records = run(evaluation, folder, on_record=count, lock=lock)
        except KeyboardInterrupt:
            begun = (folder / SAMPLES_FILE).exists()
            kept = f"the samples in {folder} are kept" if begun else "there was no sample yet"
            raise Interrupted(f"interrupted; {kept}, run the same command again") from None
        with writing(folder):
            result = write_report(evaluation, records, folder, time.perf_counter() - started)
    if as_json:
        print_json(result | {"folder": str(folder)})
    else:
        typer.echo(printable((folder / TABLE_FILE).read_text(encoding="utf-8")))
        notes().print(f"samples, tables and plots are in {folder}", markup=False)


def _folder(evaluation: Evaluation) -> Path:
    """Return a folder that depends on the arguments and the model."""
    import hashlib

    digest = hashlib.sha256(repr(evaluation.arguments()).encode()).hexdigest()[:8]
    return Path("runs") / f"eval-{evaluation.suite.name}-{digest}"


def _progress(evaluation: Evaluation) -> AbstractContextManager[OnRecord]:
    """Show a bar on standard error for each system, with the fraction of right answers so far."""
    from collections import Counter
    from contextlib import contextmanager

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from memfold.cli.output import notes
    from memfold.evaluation.records import Record

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[right]}"))

    @contextmanager
    def bars() -> Iterator[OnRecord]:
        right: Counter[str] = Counter()
        with Progress(*columns, TimeRemainingColumn(), console=notes()) as progress:
            total = evaluation.options.total
            tasks = {label: progress.add_task(label, total=total, right="") for label in evaluation.labels}

            def count(record: Record) -> None:
                right[record.system] += record.correct
                progress.advance(tasks[record.system])
                done = progress.tasks[tasks[record.system]].completed
                progress.update(tasks[record.system], right=f"{right[record.system] / done:.0%} right")

            yield count

    return bars()
