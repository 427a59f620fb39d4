"""`memfold export`: writes a trained model to a folder that other programs can load (`memfold.backbone.export`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

NAME = "export"


def command(
    model: Annotated[str, typer.Argument(metavar="RUN_OR_MODEL", help="A run folder, a model folder, or tiny.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to create.")],
    dtype: Annotated[
        str, typer.Option("--dtype", help="Data type of the weights: float32 (as trained) or bfloat16.")
    ] = "float32",
    merge: Annotated[bool, typer.Option("--merge", help="Merge a LoRA adapter into its base model.")] = False,
) -> None:
    """Write a trained model as a Hugging Face folder.

    AutoModelForCausalLM can load it.  With memfold.json and heads.safetensors in the folder, --model can load it too.
    """
    from memfold.backbone.export import export
    from memfold.backbone.resolve import resolve_model
    from memfold.cli.output import notes
    from memfold.core.outputs import check_empty

    check_empty(out)
    written = export(resolve_model(model), out, dtype, merge)
    if written.base_adapter is None:
        what = "a model that AutoModelForCausalLM and --model can load"
    else:
        what = (
            f"a LoRA adapter of {written.base_adapter.base} that peft and --model can load (--merge writes the whole "
            "model)"
        )
    notes().print(f"done: {out} is {what}", markup=False)
