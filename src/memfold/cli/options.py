"""The options that several commands share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memfold.core.errors import ConfigError
from memfold.core.registry import DEFAULT, SYSTEMS

System = Annotated[
    str | None, typer.Option("--system", help=f"How a text is kept: {', '.join(SYSTEMS)}; by default {DEFAULT}.")
]
Model = Annotated[
    str,
    typer.Option("--model", help="tiny (shipped), a model or run folder, a Hugging Face id, or http://HOST/v1#NAME."),
]
Ratio = Annotated[int | None, typer.Option("--ratio", help="Tokens per slot; by default 16 if trained at it.")]
Device = Annotated[str, typer.Option("--device", help="Where the model runs: cpu, cuda, mps.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Folder = Annotated[Path, typer.Option("--out", "-o", help="Folder to write to; made if it is not there.")]


def model_dtype(device: str) -> str:
    """The numbers that a model computes with: exact where it is small and slow, 16 bits on an accelerator."""
    return "float32" if device == "cpu" else "bfloat16"


def numbers(text: str | None) -> tuple[int, ...] | None:
    """The lengths of an option; None where it was left out."""
    if text is None:
        return None
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise ConfigError(f"--lengths {text!r} is not possible; write numbers from 1 with commas: 128,256")
    return found
