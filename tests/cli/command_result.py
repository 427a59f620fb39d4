"""What a command leaves behind, for the tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """What a command left: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def record(self) -> Any:
        return json.loads(self.out)

    @property
    def message(self) -> str:
        """The one line of an error."""
        (line,) = self.err.splitlines()
        assert line.startswith("memfold: ")
        return line.removeprefix("memfold: ")


Cli = Callable[..., Result]
