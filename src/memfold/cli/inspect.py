"""`memfold inspect`: shows what a memory file holds and checks it, or the replies in a file that eval or rl recorded.

It shows neither the slots themselves nor answers; for answers there is `memfold ask`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memfold.cli.options import Json
from memfold.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from memfold.cli.sizes import Sizes

NAME = "inspect"
FIRST = 10  # replies that are shown by default


def command(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="MEMORY_OR_REPLIES", help="A memory file, a .jsonl file of replies, or the folder of a run."
        ),
    ],
    first: Annotated[
        int | None, typer.Option("--first", help=f"Replies: how many to show at most; by default {FIRST}.")
    ] = None,
    case: Annotated[
        str | None, typer.Option("--case", help="Replies: only those whose case begins with this text.")
    ] = None,
    wrong: Annotated[
        bool, typer.Option("--wrong", help="Replies: only those with a reward of 0, or with none.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--verify", help="Memory file: read all of it, and name the blocks that are damaged.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show a memory file, or replies that eval or rl recorded.

    For a memory file: its documents, model, settings and sizes, next to the size of a full key/value cache.  Its slots
    are not read, except with --verify; the exit code is then 2 if a block is damaged.  For replies (samples.jsonl of an
    evaluation, traces/*.jsonl of a run, or their folder): each question and reply; passages of the reply that reproduce
    the document are marked.
    """
    from memfold.cli.output import print_json
    from memfold.cli.traces import is_trace_file, read_replies, show_replies

    if is_trace_file(path):
        if check:
            raise ConfigError(f"--verify checks a memory file, and {path} holds replies; leave --verify out")
        replies = read_replies(path, FIRST if first is None else first, case or "", wrong)
        if as_json:
            print_json({"path": str(path), "replies": [reply.record for reply in replies]})
        else:
            show_replies(replies)
        return
    given = {"--first": first is not None, "--case": case is not None, "--wrong": wrong}
    for option in (option for option, is_given in given.items() if is_given):
        raise ConfigError(f"{option} selects replies, and {path} is a memory file; leave {option} out")
    from memfold.cli.sizes import Sizes
    from memfold.memory import damage, verify

    sizes = Sizes.of(path)
    damaged = verify(path) if check else None
    if as_json:
        print_json(sizes.record() | ({} if damaged is None else {"damaged": damaged}))
    else:
        sizes.show(str(path), details=True, last=[("checked", _checked(sizes, damaged))])
    if damaged:
        raise DataError(damage(path, damaged))


def _checked(sizes: Sizes, damaged: Sequence[str] | None) -> str:
    """Return what is known of the state of a file, given its damaged blocks (None if they were not looked for)."""
    if damaged is None and sizes.description["checksums"]:
        return "all but the slots; --verify reads them, too"
    count = sizes.description["blocks"]
    return f"{len(damaged)} of {count:,} blocks damaged" if damaged else f"all {count:,} blocks are sound"
