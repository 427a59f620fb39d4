"""`memfold fold`: folds documents into a memory file block by block; an interrupted fold continues.

A memory of each file, in a folder, is left to `memfold.cli.corpus`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memfold.cli.options import (
    CPU,
    Device,
    Force,
    Json,
    Model,
    Ratio,
    Settings,
    System,
    check_model,
    model_dtype,
    system_or_default,
)
from memfold.core.config import require
from memfold.core.errors import ConfigError, DataError
from memfold.core.registry import check_keeps_text, check_slot_dtype, system_class
from memfold.core.settings import parse_settings

if TYPE_CHECKING:
    from memfold.core.document import Document
    from memfold.core.types import Block
    from memfold.memory import Manifest, StoredMemory, WriteLock
    from memfold.session import Session

NAME = "fold"
SEPARATORS = ("/", os.sep)

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="DOC...", help="Files (plain text of any kind, HTML, PDF, .docx), folders, pipes, or - for stdin."
    ),
]
Out = Annotated[
    str,
    typer.Option(
        "--out",
        "-o",
        metavar="MEMORY",
        help="The memory file to write; a name that ends with / is a folder, for a memory of each file.",
    ),
]
Append = Annotated[bool, typer.Option("--append", help="Add the documents to an existing memory file.")]
NoText = Annotated[bool, typer.Option("--no-text", help="Do not store the text of the documents in the file.")]
SlotType = Annotated[
    str | None, typer.Option("--dtype", help="Data type of the stored slots: bfloat16, float32 or int8.")
]
Engine = Annotated[
    str | None,
    typer.Option(
        "--engine", help="Fold each file into a memory of its own, in the folder --out: local (this process), or ray."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", help="Processes of --engine ray; by default one for each GPU, or for each machine."),
]


@dataclass(frozen=True)
class Form:
    """How a new file stores slots and text."""

    dtype: str
    keep_text: bool


def command(
    sources: Sources,
    out: Out,
    system: System = None,
    model: Model = "tiny",
    ratio: Ratio = None,
    append: Append = False,
    no_text: NoText = False,
    dtype: SlotType = None,
    settings: Settings = None,
    device: Device = None,
    force: Force = False,
    engine: Engine = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Fold documents into a memory file, or each file into one of its own.

    For a long text, an estimate of time and size is printed first, on standard error.  After an interruption, run the
    same command again to continue.  With --append, system, ratio and dtype are those of the file.  A file that is not
    a memory of the same documents is replaced only with --force.

    Nothing is folded if a file that you name cannot be read.  What is found in a folder and cannot be read is skipped:
    hidden files and folders, links to folders, binary, empty and damaged files.  Each text is folded once.  Standard
    error lists what is folded from folders and what is skipped, with the reasons; --json has all of it.

    With --out FOLDER/ or --engine, inner/a.txt is folded into FOLDER/inner/a.txt.fold.  A memory that is there, whole,
    with the same text and settings, is kept.  A file that cannot be folded stops no other; the exit code is then 1.
    """
    require(out != "-", "--out", "-", "the name of a file; a memory cannot be written to standard output")
    check_model(model, device)
    device = device or CPU
    from memfold.cli.documents import distinct_inputs, open_inputs, records
    from memfold.cli.inputs import model_files
    from memfold.cli.output import Interrupted, print_json
    from memfold.cli.sizes import Sizes
    from memfold.folding import input_paths
    from memfold.memory import claimed, open_stored
    from memfold.session import open_session, session_for

    memory, given = Path(out), parse_settings(settings or ())
    each = out.endswith(SEPARATORS) or engine is not None or workers is not None
    _check_append(append, bool(given), each)
    if each:
        from memfold.cli.corpus import fold_each
        from memfold.corpus.work import Order

        chosen = system_or_default(system, model)
        _check_kept(chosen, dtype, no_text)
        order = Order(chosen, model, ratio, device, model_dtype(device), given, dtype or "bfloat16", not no_text, force)
        fold_each(sources, memory, order, engine, workers, as_json)
        return
    inputs = open_inputs(sources)
    try:
        with claimed(memory, [*input_paths(inputs.documents), *model_files(model)]) as lock:
            stored = open_stored(memory) if append else None
            chosen = stored.manifest.system if stored else system_or_default(system, model)
            _check_kept(chosen, dtype, no_text)
            inputs = distinct_inputs(inputs, stored.manifest if stored else None, str(memory))
            documents = inputs.documents
            _check_target(memory, documents, stored, force)
            if stored is None:
                session = open_session(chosen, model, ratio, device, model_dtype(device), given).settled(documents)
            else:
                _check_form(stored, dtype, no_text)
                session = session_for(stored.manifest, model, system, ratio, device, model_dtype(device))
            form = stored.manifest if stored else Form(dtype or "bfloat16", not no_text)
            check_keeps_text(session.system, form.keep_text)
            _estimate(documents, session, form, added=stored is not None)
            started = time.perf_counter()
            tokens = _fold(documents, stored, session, form, lock, force)
            sizes, seconds = Sizes.of(memory), time.perf_counter() - started
    except KeyboardInterrupt:
        raise Interrupted(_kept(memory)) from None
    if as_json:
        told = {"folded": [document.source for document in documents], "skipped": records(inputs.skipped)}
        print_json(sizes.record() | told | {"seconds": {"fold": round(seconds, 4)}})
    else:
        sizes.show(f"{memory}: {tokens:,} tokens folded in {seconds:.1f} s ({tokens / seconds:,.0f} tokens/s)")


def _check_append(append: bool, settings: bool, each: bool) -> None:
    """Refuse to append what would differ from the file, or to a folder of memories."""
    if append and settings:
        raise ConfigError("--set is not possible with --append: the settings are those of the file; leave it out")
    if append and each:
        raise ConfigError("--append is not possible with a memory of each file; leave it out, or name a memory file")


def _check_target(memory: Path, documents: Sequence[Document], stored: StoredMemory | None, force: bool) -> None:
    """Refuse to replace what belongs to other documents, before the model is loaded."""
    from memfold.memory import check_target

    hashes = tuple(document.sha256() for document in documents)
    if stored is None:
        check_target(memory, hashes, force=force)
    elif documents:
        check_target(memory, (*stored.manifest.sha256, *hashes), grown=True, force=force)


def _estimate(documents: Sequence[Document], session: Session, form: Form | Manifest, added: bool) -> None:
    from memfold.cli.estimate import estimate
    from memfold.cli.output import notes

    expected = estimate(documents, session, form.keep_text, form.dtype)
    if expected is not None:
        notes().print(expected.line(added=added))


def _fold(
    documents: Sequence[Document],
    stored: StoredMemory | None,
    session: Session,
    form: Form | Manifest,
    lock: WriteLock,
    force: bool,
) -> int:
    """Fold into a new file, or append to a stored one, and return the number of tokens."""
    from memfold.cli.output import folding, notes
    from memfold.folding import append_file, fold_file

    counts: list[int] = []

    def resumed(blocks: int) -> None:
        written = "1 block is" if blocks == 1 else f"{blocks} blocks are"
        notes().print(f"continuing an interrupted fold: {written} already written")

    with folding(documents) as progress:

        def count(block: Block) -> None:
            counts.append(block.token_count)
            progress(block)

        called: dict[str, Any] = {"progress": count, "on_resume": resumed, "force": force, "lock": lock}
        if stored is None:
            fold_file(documents, lock.path, session, keep_text=form.keep_text, dtype=form.dtype, **called)
        elif documents:
            append_file(documents, stored, session, **called)
    return sum(counts)


def _kept(memory: Path) -> str:
    """Return the message of an interruption, with what is on disk."""
    from memfold.memory import partial_folder

    if partial_folder(memory).exists():
        return "interrupted; the partial fold is kept, run the same command again to continue"
    return "interrupted before the first block was written; run the same command again"


def _check_kept(system: str, dtype: str | None, no_text: bool) -> None:
    """Refuse options that have no meaning for a memory of text, before anything is computed."""
    from memfold.memory.manifest import check_dtype

    check_keeps_text(system_class(system)(), not no_text)
    if dtype is not None:
        check_dtype(dtype)
    check_slot_dtype(system, dtype)


def _check_form(stored: StoredMemory, dtype: str | None, no_text: bool) -> None:
    """Refuse to add slots of another dtype, or text to a file that holds none."""
    old = stored.manifest
    if dtype not in (None, old.dtype) and stored.layout.contents.hidden:
        raise DataError(f"{stored.path} holds slots in {old.dtype}, --dtype asks for {dtype}; leave --dtype out")
    if old.keep_text and no_text:
        raise DataError(f"{stored.path} holds the text of its documents, --no-text asks for none; leave --no-text out")
    if not old.keep_text and not no_text:
        raise DataError(f"{stored.path} holds no text of its documents; give --no-text to add none either")
