"""`memfold bench`: speed and memory of folding, or of the first token of an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from memfold.cli.options import Device, Json, Model, Ratio, model_dtype, numbers
from memfold.core.errors import unknown

NAME = "bench"
LENGTHS = {"fold": (2048, 8192, 32768), "first-token": (2048, 8192, 32768)}


def command(
    what: Annotated[str, typer.Argument(metavar="fold|first-token", help="What to time.")],
    model: Model = "tiny",
    lengths: Annotated[str | None, typer.Option("--lengths", help="Document tokens, with commas: 8192,32768.")] = None,
    ratio: Ratio = None,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Timed runs of each.")] = 20,
    warmups: Annotated[int, typer.Option("--warmups", min=0, help="Runs before them.")] = 3,
    device: Device = "cpu",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the JSON object and a plot here.")] = None,
    as_json: Json = False,
) -> None:
    """Time folding beside the model's own forward pass, or the first token from a memory beside the full text.

    Everything that is compared runs in turn; the raw times stand beside the ratios.
    """
    if what not in LENGTHS:
        raise unknown("benchmark", what, LENGTHS)
    from memfold.backbone.origin import commit, hardware
    from memfold.bench.first_token import bench_first_token
    from memfold.bench.fold import bench_fold
    from memfold.choice import choose
    from memfold.cli.output import notes, print_json

    wanted = numbers(lengths) or LENGTHS[what]
    choice = choose("pooled", model, ratio, device, model_dtype(device))
    tell = notes().print
    if what == "fold":
        found = bench_fold(choice, wanted, warmups, runs, tell)
    else:
        found = bench_first_token(choice.backbone, wanted, warmups, runs, tell)
    about = {
        "bench": what,
        "model": choice.backbone.name,
        "dtype": str(choice.backbone.dtype).removeprefix("torch."),
        "commit": commit(),
        "hardware": hardware(choice.backbone.device),
        "warmups": warmups,
        "runs": runs,
    }
    _report(about | found, out)
    if as_json:
        print_json(about | found)


def _report(result: dict[str, Any], out: Path | None) -> None:
    if out is None:
        return
    import json

    from memfold.bench.plot import draw

    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{result['bench']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw(result, path.with_suffix(".png"))
