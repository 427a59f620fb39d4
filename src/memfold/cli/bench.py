"""`memfold bench`: measures the speed and memory use of folding, of the first token, of systems, or of sampling.

memfold bench first-token --lengths 8192,32768,122880 --out results
memfold bench first-token --architecture 7b --device cuda
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memfold.cli.options import CPU, Device, Json, Model, Ratio, check_model, model_dtype, numbers
from memfold.core.errors import ConfigError, unknown
from memfold.core.registry import CLOSED_BOOK, DEFAULT, TIMED

if TYPE_CHECKING:
    from memfold.session import Session

NAME = "bench"
SYSTEMS = "systems"
BENCHES = {
    "fold": "memfold.bench.fold:bench_fold",
    "first-token": "memfold.bench.first_token:bench_first_token",
    SYSTEMS: "memfold.bench.systems:bench_systems",
    "rollout": "memfold.bench.rollout:bench_rollout",
}
LENGTHS: dict[str, tuple[int, ...]] = {SYSTEMS: (2048, 8192), "rollout": (512, 4096)}
RUNS = {SYSTEMS: 5}  # fewer, because a system that writes notes is slow
USUAL_LENGTHS, USUAL_RUNS = (2048, 8192, 32768), 20

Systems = Annotated[
    list[str] | None,
    typer.Option("--system", help="bench systems: NAME[:RATIO][/STYLE][/SETTING=VALUE]; repeatable."),
]
Architecture = Annotated[
    str | None,
    typer.Option(
        "--architecture", help="Random weights of this shape instead of a model: 0.5b, 7b or 32b; needs a GPU."
    ),
]


def command(
    what: Annotated[str, typer.Argument(metavar="|".join(BENCHES), help="Benchmark to run.")],
    model: Model = "tiny",
    lengths: Annotated[
        str | None, typer.Option("--lengths", help="Document lengths in tokens, such as 8192,32768.")
    ] = None,
    ratio: Ratio = None,
    system: Systems = None,
    runs: Annotated[
        int | None,
        typer.Option(
            "--runs", min=1, help="Timed runs; by default 20, or 5 for bench systems; at most 3 above 65,536 tokens."
        ),
    ] = None,
    warmups: Annotated[int, typer.Option("--warmups", min=0, help="Warm-up runs.")] = 3,
    architecture: Architecture = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace existing results; time an architecture without a GPU.")
    ] = False,
    device: Device = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the JSON object and a plot here.")] = None,
    as_json: Json = False,
) -> None:
    """Measure the speed and memory use of a model.

    fold: folding, compared with the forward pass alone.  first-token: the first token from a memory, compared with the
    full text.  systems: several systems side by side.  rollout: sampling many replies, compared with decoding alone.
    What is compared runs alternately; the result has the times of all runs and their ratios.
    """
    if what not in BENCHES:
        raise unknown("benchmark", what, BENCHES)
    _check(model, architecture, force, out)
    if system:
        _check_systems(what, ratio, system)
    wanted = numbers(lengths) or LENGTHS.get(what, USUAL_LENGTHS)
    from memfold.cli.output import print_json
    from memfold.core.lock import FolderLock

    with nullcontext() if out is None else FolderLock(out):
        if out is not None:
            _check_out(out, what, model, force)
        session = _session(model, ratio, device or CPU, architecture, force)
        result = _result(what, session, wanted, system, warmups, runs)
        _report(result, out)
    if as_json:
        print_json(result)


def _check(model: str, architecture: str | None, force: bool, out: Path | None) -> None:
    """Refuse a model that cannot be timed, and options without effect."""
    from memfold.endpoint.model import is_address

    if force and architecture is None and out is None:
        raise ConfigError("--force has no effect without --out or --architecture; leave it out")
    if architecture is not None and model != "tiny":
        raise ConfigError(f"--architecture {architecture} replaces --model {model}; leave one of them out")
    if is_address(model):
        raise ConfigError(f"model {model!r} is an endpoint, and bench times weights here; give a --model with weights")
    if architecture is None:
        check_model(model)


def _result(
    what: str,
    session: Session,
    lengths: tuple[int, ...],
    labels: list[str] | None,
    warmups: int,
    runs: int | None,
) -> dict[str, Any]:
    """Measure, and return the figures with what was measured on what."""
    from memfold.backbone.origin import commit, hardware

    about: dict[str, Any] = {
        "bench": what,
        "model": session.model.name,
        "dtype": session.model.precision,
        "ratio_of_slots": session.system.ratio,
        "commit": commit(),
        "hardware": hardware(session.model.weights().device),
        "warmups": warmups,
        "runs": runs or RUNS.get(what, USUAL_RUNS),
    }
    return about | _measure(what, session, lengths, labels, warmups, int(about["runs"]))


def _check_out(out: Path, what: str, model: str, force: bool) -> None:
    """Refuse results that cannot be written, before anything is timed."""
    from memfold.cli.inputs import model_files
    from memfold.core.outputs import check_files
    from memfold.evaluation.plots import load_pyplot

    check_files(out, (f"{what}.json", f"{what}.png"), model_files(model), force=force)
    load_pyplot()


def _check_systems(what: str, ratio: int | None, labels: list[str]) -> None:
    """Refuse systems that cannot be timed, before a model is loaded."""
    from memfold.evaluation.candidate import check_labels

    if what != SYSTEMS:
        raise ConfigError("--system is for bench systems only; leave it out")
    if ratio is not None:
        raise ConfigError(f"--ratio {ratio} is not possible with --system; write the ratio as in {DEFAULT}:{ratio}")
    check_labels(labels)
    for label in labels:
        if label.split("/")[0] == CLOSED_BOOK:
            raise ConfigError(f"system {label!r} reads no document, so there is nothing to time; leave it out")


def _session(model: str, ratio: int | None, device: str, architecture: str | None, force: bool) -> Session:
    """Open the model to time, with the default system."""
    from memfold.bench.architecture import check_architecture, random_backbone
    from memfold.session import Session, make_system, open_session

    if architecture is None:
        return open_session(DEFAULT, model, ratio, device, model_dtype(device))
    backbone = random_backbone(check_architecture(architecture, device, force), device, model_dtype(device))
    return Session(make_system(DEFAULT, backbone, ratio), backbone)


def _measure(
    what: str, session: Session, lengths: tuple[int, ...], labels: list[str] | None, warmups: int, runs: int
) -> dict[str, Any]:
    from memfold.cli.output import notes
    from memfold.core.registry import load

    measure, report = load("benchmark", what, BENCHES), notes().print
    if what != SYSTEMS:
        return dict(measure(session, lengths, warmups, runs, report))
    usual = [f"{DEFAULT}:{session.system.ratio}" if label == DEFAULT else label for label in TIMED]
    return dict(measure(session.model, labels or usual, lengths, warmups, runs, report))


def _report(result: dict[str, Any], out: Path | None) -> None:
    if out is None:
        return
    import json

    from memfold.bench.plot import draw
    from memfold.core.outputs import write_text

    path = out / f"{result['bench']}.json"
    write_text(path, json.dumps(result, indent=1) + "\n")
    draw(result, path.with_suffix(".png"))
