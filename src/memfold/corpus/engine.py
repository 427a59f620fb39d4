"""The engines that run workers over the files of a corpus: each is a file in `engines` and a line in the table.

An engine decides where workers run and which file each of them folds next.  Folding is in `memfold.corpus.work`, so
every engine writes the same memories.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from memfold.core import registry
from memfold.corpus.work import Job, Order, Outcome

LOCAL = "local"
ENGINES = {
    LOCAL: "memfold.corpus.engines.local:LocalEngine",
    "ray": "memfold.corpus.engines.ray:RayEngine",
}


class Engine(Protocol):
    """Created with the number of workers, or None for what suits the machines; the constructor starts nothing."""

    def run(self, order: Order, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Yield the outcome of every job, each once, in the order in which they end.

        Raises:
            ConfigError, CheckpointError, DataError: if the model cannot be loaded.
            CallError: if workers end before they have loaded it.
        """
        ...


def open_engine(name: str, workers: int | None = None) -> Engine:
    """Return an engine by its name.

    Raises:
        ConfigError: for an unknown name, an engine that is not installed, or a number of workers that it cannot have.
    """
    engine: Engine = registry.load("engine", name, ENGINES)(workers)
    return engine
