"""`memfold inspect`: what is in a memory file.  Left out: the slots themselves, and asking (`memfold ask`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memfold.cli.options import Json

NAME = "inspect"


def command(
    memory: Annotated[Path, typer.Argument(metavar="MEMORY", help="A memory file.")],
    as_json: Json = False,
) -> None:
    """Show what is in a memory file.

    Documents, model, settings and sizes, beside what a full key/value cache would take.
    """
    from memfold.cli.output import print_json
    from memfold.cli.sizes import Sizes

    sizes = Sizes.of(memory)
    if as_json:
        print_json(sizes.record())
    else:
        sizes.show(str(memory), details=True)
