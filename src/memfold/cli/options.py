"""The options that several commands share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

System = Annotated[str | None, typer.Option("--system", help="What makes a memory: pooled (default), full, retrieval.")]
Model = Annotated[str, typer.Option("--model", help="tiny (shipped), a model or run folder, or a Hugging Face id.")]
Ratio = Annotated[int | None, typer.Option("--ratio", help="Tokens per slot; by default 16 if the model knows it.")]
Device = Annotated[str, typer.Option("--device", help="Where the model runs: cpu, cuda, mps.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Folder = Annotated[Path, typer.Option("--out", "-o", help="Folder to write to; made if it is not there.")]


def model_dtype(device: str) -> str:
    """The numbers that a model computes with: exact where it is small and slow, 16 bits on an accelerator."""
    return "float32" if device == "cpu" else "bfloat16"
