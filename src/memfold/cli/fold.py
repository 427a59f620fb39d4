"""`memfold fold`: documents into a memory file, block by block, going on after an interruption."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memfold.cli.options import Device, Json, Model, Ratio, System, model_dtype
from memfold.core.errors import DataError
from memfold.core.registry import DEFAULT

if TYPE_CHECKING:
    from memfold.core.document import Document
    from memfold.core.types import Block
    from memfold.memory import StoredMemory

NAME = "fold"

SlotType = Annotated[str | None, typer.Option("--dtype", help="Of the stored slots: bfloat16, float32, int8.")]


def command(
    sources: Annotated[
        list[str], typer.Argument(metavar="DOC...", help="Text, HTML and PDF files, folders of them, or - for stdin.")
    ],
    memory: Annotated[Path, typer.Option("--out", "-o", metavar="MEMORY", help="The memory file to write.")],
    system: System = None,
    model: Model = "tiny",
    ratio: Ratio = None,
    append: Annotated[bool, typer.Option("--append", help="Add to the memory file that is there.")] = False,
    no_text: Annotated[bool, typer.Option("--no-text", help="Leave the documents' text out of the file.")] = False,
    dtype: SlotType = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Fold documents into a memory file.

    What a long one will take is told first, on standard error.  An interrupted fold goes on when the same command is
    run again.  With --append system, ratio and dtype are those of the file, and a document whose text it holds already
    is skipped.
    """
    import time

    from memfold.cli.estimate import estimate
    from memfold.cli.output import Interrupted, folding, notes, print_json
    from memfold.cli.sizes import Sizes
    from memfold.cli.stdin import read_sources
    from memfold.folding import append_file, fold_file
    from memfold.memory import open_stored
    from memfold.session import open_session, session_for

    stored = open_stored(memory) if append else None
    documents = read_sources(sources)
    if stored is None:
        session = open_session(system or DEFAULT, model, ratio, device, model_dtype(device))
    else:
        _check_form(stored, dtype, no_text)
        session = session_for(stored.manifest, model, system, ratio, device, model_dtype(device))
        documents = _missing(documents, stored)
    form = stored.manifest.dtype if stored else dtype or "bfloat16"
    keep_text = stored.manifest.keep_text if stored else not no_text
    expected = estimate(documents, session, keep_text, form)
    if expected is not None:
        notes().print(expected.line(added=stored is not None))
    started = time.perf_counter()
    counts: list[int] = []

    def resumed(blocks: int) -> None:
        notes().print(f"going on with an interrupted fold: {blocks} blocks are there already")

    try:
        with folding(documents) as progress:

            def count(block: Block) -> None:
                counts.append(block.token_count)
                progress(block)

            if stored is None:
                fold_file(
                    documents, memory, session, keep_text=keep_text, dtype=form, progress=count, on_resume=resumed
                )
            elif documents:
                append_file(documents, stored, session, progress=count, on_resume=resumed)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; the partial fold is kept, run the same command again to go on") from None
    sizes, seconds = Sizes.of(memory), time.perf_counter() - started
    if as_json:
        print_json(sizes.record() | {"seconds": {"fold": round(seconds, 4)}})
    else:
        sizes.show(
            f"{memory}: {sum(counts):,} tokens folded in {seconds:.1f} s ({sum(counts) / seconds:,.0f} tokens/s)"
        )


def _check_form(stored: StoredMemory, dtype: str | None, no_text: bool) -> None:
    """Refuse to add slots of another dtype, or text to a file that is kept without."""
    old = stored.manifest
    if dtype not in (None, old.dtype):
        raise DataError(f"{stored.path} holds slots in {old.dtype}, --dtype asks for {dtype}; leave --dtype out")
    if old.keep_text and no_text:
        raise DataError(f"{stored.path} holds the text of its documents, --no-text asks for none; leave --no-text out")
    if not old.keep_text and not no_text:
        raise DataError(f"{stored.path} holds no text of its documents; give --no-text to add none either")


def _missing(documents: Sequence[Document], stored: StoredMemory) -> list[Document]:
    """The documents whose text is not in the file, with a line for each of the others."""
    from memfold.cli.output import notes
    from memfold.memory import sort_out

    missing, doubles = sort_out(documents, stored.manifest)
    for document, known in doubles:
        notes().print(f"skipped {document.source}: {stored.path} holds the same text as {known}", markup=False)
    return missing
