"""The `memfold` command: one thin file for each subcommand.  Errors become one line here.

A command's file has a NAME and a `command`, and imports what is heavy inside it: help is printed without torch.
Exit codes: 0 done, 1 failed, 2 bad usage or bad input, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from memfold.backbone.quick_start import quick_start
from memfold.cli import ask, bench, demo, eval, export, fold, inspect, models, sample, train
from memfold.cli.printable import escape_what_streams_cannot_encode, printable, read_ascii_input_as_utf8
from memfold.cli.process import end_process, set_up_process
from memfold.core.errors import MemfoldError
from memfold.core.outputs import FULL, reason

COMMANDS = (demo, fold, ask, inspect, models, sample, train, export, eval, bench)
READERS = {demo.NAME, fold.NAME, ask.NAME}  # commands that load a model only to read with it
DEBUG = "MEMFOLD_DEBUG"
INTERRUPTED = 130
# of a place that cannot be written: the user can choose another
PATH_ERRORS = {*FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.EFBIG, errno.EIO}
PATH_ERRORS |= {errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO}

# plain help: square brackets in it are meant as they stand
HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(name="memfold", pretty_exceptions_enable=False, rich_markup_mode=None, context_settings=HELP)
for module in COMMANDS:
    app.command(module.NAME)(module.command)


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Fold long documents into small memories, and answer questions from them."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"memfold {installed('memfold')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())
    elif context.invoked_subcommand in READERS:
        quick_start()


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its exit code; this is the entry point."""
    set_up_process()
    end_process(execute(arguments))


def execute(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.  Errors are one line on standard error."""
    escape_what_streams_cannot_encode()
    read_ascii_input_as_utf8()
    try:
        code = app(args=arguments, prog_name="memfold", standalone_mode=False)
    except MemfoldError as error:
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except Exception as error:
        describe = getattr(error, "format_message", None)  # what typer raises for bad usage
        if describe is not None:
            return _fail(f"{describe()} (memfold --help)", 2)
        if os.environ.get(DEBUG):
            raise
        if isinstance(error, OSError) and error.errno in PATH_ERRORS:
            return _fail(f"cannot use {error.filename or 'the output'}: {reason(error)}", 2)
        return _fail(f"{type(error).__name__}: {error}; run with {DEBUG}=1 for the traceback", 1)
    if code == INTERRUPTED:
        return _fail("interrupted", code)
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    with contextlib.suppress(OSError):  # a disk that is full takes no message either
        sys.stderr.write(f"memfold: {printable(' '.join(message.split()))}\n")
        sys.stderr.flush()
    return code
