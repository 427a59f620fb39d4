"""`memfold export`: a trained model as a folder that others can load.

Left out: what is in it (`memfold.backbone.export`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

NAME = "export"


def command(
    model: Annotated[str, typer.Argument(metavar="RUN_OR_MODEL", help="A run or model folder, or tiny.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The new folder.")],
    dtype: Annotated[str, typer.Option("--dtype", help="Of the weights: float32 (as trained), bfloat16.")] = "float32",
    merge: Annotated[bool, typer.Option("--merge", help="Merge a LoRA adapter into the weights of its base.")] = False,
) -> None:
    """Write a trained model as an ordinary Hugging Face folder.

    AutoModelForCausalLM loads it; memfold.json and heads.safetensors beside the weights make it one that --model takes.
    """
    from memfold.backbone.export import export
    from memfold.backbone.resolve import resolve_model
    from memfold.cli.output import notes

    written = export(resolve_model(model), out, dtype, merge)
    if written.base_adapter is None:
        what = "a model that AutoModelForCausalLM and --model load"
    else:
        what = (
            f"a LoRA adapter of {written.base_adapter.base} that peft and --model load (--merge writes the whole model)"
        )
    notes().print(f"done: {out} is {what}", markup=False)
