"""The options that several commands share, and those of `ask`, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memfold.core.config import require
from memfold.core.errors import ConfigError
from memfold.core.registry import DEFAULT, SYSTEMS, TEXT_DEFAULT

System = Annotated[
    str | None,
    typer.Option(
        "--system",
        help=f"Memory system: {', '.join(SYSTEMS)}; by default the one that the model was trained for ({DEFAULT} for "
        f"tiny), or {TEXT_DEFAULT}.",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        help="tiny (shipped), smollm2 (a package), a model or run folder, a Hugging Face id, or http://HOST/v1#NAME.",
    ),
]
Ratio = Annotated[
    int | None, typer.Option("--ratio", help="Tokens per slot; by default 16 if the model was trained at it.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SETTING=VALUE",
        help="A setting of the system, such as note=256; repeatable.",
    ),
]
Device = Annotated[
    str | None, typer.Option("--device", help="Device that the model runs on: cpu (default), cuda, cuda:N or mps.")
]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", help="Most tokens of a reply, thoughts aside; by default what suits the model."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what the output path holds.")]
Folder = Annotated[Path, typer.Option("--out", "-o", help="Folder to write to; it is created if it does not exist.")]

Trace = Annotated[
    Path | None,
    typer.Option("--trace", help="Write each call to a new .jsonl file as soon as it is done, for memfold inspect."),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with an interrupted reading: use the replies in the file of --trace."),
]
BUDGET = 256  # tokens that --unfold reads again

Question = Annotated[
    str | None,
    typer.Argument(metavar="QUESTION", help="If left out, questions are read one after another from standard input."),
]
Questions = Annotated[
    Path | None, typer.Option("--questions", help='A .jsonl file with one {"question": "..."} on each line.')
]
Unfold = Annotated[
    bool | None,
    typer.Option(
        "--unfold/--no-unfold",
        help="Read the cited text again before the final answer: always, or never; by default if the text does not "
        "support the reply.",
    ),
]
Budget = Annotated[
    int | None, typer.Option("--budget", help=f"Tokens of text that are read again; by default {BUDGET}.")
]
Style = Annotated[
    str | None,
    typer.Option(
        "--style", help="recall: sentences, then the answer; bare: the answer alone; free: the model chooses."
    ),
]

CPU = "cpu"


def check_model(model: str, device: str | None = None) -> None:
    """Refuse a model that cannot be found, and a device for an endpoint, before anything slow is imported."""
    from memfold.backbone.resolve import check_model as check
    from memfold.endpoint.model import is_address

    if not is_address(model):
        check(model)
    elif device is not None:
        raise ConfigError(f"--device {device} has no effect: an endpoint chooses its own device; leave --device out")


def system_or_default(system: str | None, model: str) -> str:
    """Return the system that was given, or that of the model; which one is told if it is not the usual one."""
    if system is not None:
        return system
    from memfold.cli.output import notes
    from memfold.session import default_system

    chosen = default_system(model)
    if chosen != DEFAULT:
        why = f"model {model} was trained for it" if chosen != TEXT_DEFAULT else f"model {model} reads text"
        notes().print(f"--system {chosen}: {why}", markup=False)
    return chosen


def model_dtype(device: str) -> str:
    """Return the data type of the weights: 32 bits on a CPU, 16 bits on an accelerator."""
    return "float32" if device == CPU else "bfloat16"


def numbers(text: str | None) -> tuple[int, ...] | None:
    """Return the different lengths that an option lists, in its order; None if the option was left out."""
    if text is None:
        return None
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise ConfigError(f"--lengths {text!r} is not possible; write numbers of 1 or more with commas: 128,256")
    return tuple(dict.fromkeys(found))


def check_budget(budget: int | None, unfold: bool | None) -> None:
    """Refuse a budget without effect, or one of no tokens."""
    if budget is None:
        return
    if unfold is False:
        raise ConfigError(f"--budget {budget} has no effect with --no-unfold; leave one of them out")
    require(budget > 0, "--budget", budget, "1 token or more")
