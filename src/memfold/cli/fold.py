"""`memfold fold`: documents into a memory file, block by block, going on after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memfold.cli.options import Device, Json, Model, Ratio, System, model_dtype

if TYPE_CHECKING:
    from memfold.core.types import Block

NAME = "fold"


def command(
    sources: Annotated[
        list[str], typer.Argument(metavar="DOC...", help="Text files, folders of them, or - for stdin.")
    ],
    memory: Annotated[Path, typer.Option("--out", "-o", metavar="MEMORY", help="The memory file to write.")],
    system: System = "pooled",
    model: Model = "tiny",
    ratio: Ratio = None,
    no_text: Annotated[bool, typer.Option("--no-text", help="Leave the documents' text out of the file.")] = False,
    dtype: Annotated[str, typer.Option("--dtype", help="Of the stored slots: bfloat16, float32, int8.")] = "bfloat16",
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Fold documents into a memory file.

    An interrupted fold goes on when the same command is run again.
    """
    import time

    from memfold import api
    from memfold.cli.output import Interrupted, folding, notes, print_json
    from memfold.cli.sizes import Sizes
    from memfold.cli.stdin import read_sources

    documents = read_sources(sources)
    choice = api.choose(system, model, ratio, device, model_dtype(device))
    started = time.perf_counter()
    counts: list[int] = []

    def resumed(blocks: int) -> None:
        notes().print(f"going on with an interrupted fold: {blocks} blocks are there already")

    try:
        with folding(documents) as progress:

            def count(block: Block) -> None:
                counts.append(block.token_count)
                progress(block)

            api.fold_file(documents, memory, choice, keep_text=not no_text, dtype=dtype, progress=count,
                          on_resume=resumed)  # fmt: skip
    except KeyboardInterrupt:
        raise Interrupted("interrupted; the partial fold is kept, run the same command again to go on") from None
    sizes, seconds = Sizes.of(memory), time.perf_counter() - started
    if as_json:
        print_json(sizes.record() | {"seconds": {"fold": round(seconds, 4)}})
    else:
        sizes.show(
            f"{memory}: {sum(counts):,} tokens folded in {seconds:.1f} s ({sum(counts) / seconds:,.0f} tokens/s)"
        )
