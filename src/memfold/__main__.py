"""Entry point of the command `memfold` and of `python -m memfold`, which `torchrun -m memfold train` needs.

It imports nothing before an interruption is one line, because imports take the first moments of a command.
"""

from __future__ import annotations

import sys
from typing import NoReturn


def run() -> NoReturn:
    """Run the command line, and exit with its exit code; an interruption at any moment is one line."""
    try:
        from memfold.cli.main import run as run_command

        run_command()
    except KeyboardInterrupt:
        sys.stderr.write("memfold: interrupted\n")
        sys.exit(130)  # `INTERRUPTED` of `memfold.cli.main`, which is not imported yet


if __name__ == "__main__":
    run()
