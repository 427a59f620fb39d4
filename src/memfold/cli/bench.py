"""`memfold bench`: speed and memory of folding, of the first token, of all systems side by side, or of sampling.

memfold bench first-token --lengths 8192,32768,122880 --out results
memfold bench first-token --architecture 7b --device cuda
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memfold.cli.options import Device, Json, Model, Ratio, model_dtype, numbers
from memfold.core.errors import ConfigError, unknown
from memfold.core.registry import DEFAULT, TIMED

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
RUNS = {SYSTEMS: 5}  # a system that writes notes takes long for each
USUAL_LENGTHS, USUAL_RUNS = (2048, 8192, 32768), 20

Systems = Annotated[
    list[str] | None, typer.Option("--system", help="systems: NAME[:RATIO][/SETTING=VALUE]; repeatable.")
]
Architecture = Annotated[
    str | None,
    typer.Option("--architecture", help="Random weights of a shape in place of a model: 0.5b, 7b, 32b; needs a GPU."),
]


def command(
    what: Annotated[str, typer.Argument(metavar="|".join(BENCHES), help="What to time.")],
    model: Model = "tiny",
    lengths: Annotated[str | None, typer.Option("--lengths", help="Document tokens, with commas: 8192,32768.")] = None,
    ratio: Ratio = None,
    system: Systems = None,
    runs: Annotated[
        int | None, typer.Option("--runs", min=1, help="Timed runs of each: 20, of systems 5; at most 3 past 65,536.")
    ] = None,
    warmups: Annotated[int, typer.Option("--warmups", min=0, help="Runs before them.")] = 3,
    architecture: Architecture = None,
    force: Annotated[bool, typer.Option("--force", help="Time an architecture without a GPU.")] = False,
    device: Device = "cpu",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the JSON object and a plot here.")] = None,
    as_json: Json = False,
) -> None:
    """Time folding beside the model's own forward pass, the first token from a memory beside the full text, systems
    beside each other, or sampling many replies beside decoding alone.

    Everything that is compared runs in turn; the raw times stand beside the ratios.
    """
    if what not in BENCHES:
        raise unknown("benchmark", what, BENCHES)
    if system and (what != SYSTEMS or ratio is not None):
        raise ConfigError("--system is for bench systems, with the ratio in its name (pooled:4); leave it out")
    wanted = numbers(lengths) or LENGTHS.get(what, USUAL_LENGTHS)
    from memfold.backbone.origin import commit, hardware
    from memfold.cli.output import print_json

    session = _session(model, ratio, device, architecture, force)
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
    result = about | _measure(what, session, wanted, system, warmups, int(about["runs"]))
    _report(result, out)
    if as_json:
        print_json(result)


def _session(model: str, ratio: int | None, device: str, architecture: str | None, force: bool) -> Session:
    """The model to time, with pooled memory."""
    from memfold.bench.architecture import check_architecture, random_backbone
    from memfold.session import Session, make_system, open_session

    if architecture is None:
        return open_session(DEFAULT, model, ratio, device, model_dtype(device))
    if model != "tiny":
        raise ConfigError(f"--architecture {architecture} takes the place of --model {model}; leave one out")
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

    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{result['bench']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw(result, path.with_suffix(".png"))
