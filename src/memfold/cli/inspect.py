"""`memfold inspect`: what is in a memory file, or the replies in a file of traces.

Left out: the slots themselves, and asking (`memfold ask`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memfold.cli.options import Json

NAME = "inspect"


def command(
    path: Annotated[
        Path, typer.Argument(metavar="MEMORY_OR_TRACE", help="A memory file, or a .jsonl file of replies.")
    ],
    first: Annotated[int, typer.Option("--first", help="Of a trace file: how many to show.")] = 10,
    case: Annotated[str | None, typer.Option("--case", help="Of a trace file: those whose case begins so.")] = None,
    wrong: Annotated[bool, typer.Option("--wrong", help="Of a trace file: only replies without a reward.")] = False,
    as_json: Json = False,
) -> None:
    """Show what is in a memory file, or the replies that eval and rl recorded.

    A memory: documents, model, settings and sizes, beside what a full key/value cache would take.  Replies
    (samples.jsonl of an evaluation, traces/*.jsonl of a run, or their folder): question and reply, with the stretches
    that write the document out again marked.
    """
    from memfold.cli.output import print_json
    from memfold.cli.traces import is_trace_file, read_replies, show_replies

    if is_trace_file(path):
        replies = read_replies(path, first, case or "", wrong)
        if as_json:
            print_json({"path": str(path), "replies": [reply.record for reply in replies]})
        else:
            show_replies(replies)
        return
    from memfold.cli.sizes import Sizes

    sizes = Sizes.of(path)
    if as_json:
        print_json(sizes.record())
    else:
        sizes.show(str(path), details=True)
