"""The table of datasets by name, and the samples of their local files.

A loader takes a row and yields a sample for each of its questions, or None for a question that the dataset marks as
unanswerable; these are counted and skipped.  Any other problem of a row (a field that is missing, empty or of another
type) raises a `DataError` with file, row and field, because results on wrong data are worthless.
A new dataset is a file and a line in this table.  Files are not downloaded (docs/data.md says where they come from);
splits and shuffling are up to the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from memfold.core import registry
from memfold.core.types import Sample
from memfold.tasks.datasets.rows import Row, read_rows

Loader = Callable[[Row], Iterator[Sample | None]]

DATASETS = {
    "2wikimultihopqa": "memfold.tasks.datasets.hotpotqa:wikimultihopqa",
    "bioasq": "memfold.tasks.datasets.bioasq:bioasq",
    "hotpotqa": "memfold.tasks.datasets.hotpotqa:hotpotqa",
    "longbench-v2": "memfold.tasks.datasets.longbench:longbench",
    "ms-marco": "memfold.tasks.datasets.msmarco:msmarco",
    "musique": "memfold.tasks.datasets.musique:musique",
    "natural-questions": "memfold.tasks.datasets.natural_questions:natural_questions",
    "ragbench": "memfold.tasks.datasets.ragbench:ragbench",
    "squad": "memfold.tasks.datasets.squad:squad",
    "triviaqa": "memfold.tasks.datasets.triviaqa:triviaqa",
}


@dataclass
class Dataset:
    """The samples of some rows, which each iteration reads again; those of one document follow each other.

    `skipped` counts the unanswerable questions of the last iteration.
    """

    load: Loader
    rows: Callable[[], Iterable[Row]]
    skipped: int = 0

    def __iter__(self) -> Iterator[Sample]:
        """Samples in the order of the rows."""
        self.skipped = 0
        for row in self.rows():
            for sample in self.load(row):
                if sample is None:
                    self.skipped += 1
                else:
                    yield sample


def load_dataset(name: str, *paths: str | Path) -> Dataset:
    """A dataset from local files (JSON Lines, JSON, parquet), read one after the other.

    Raises:
        ConfigError: if the name is not in `DATASETS`.
        DataError: during iteration, for an unreadable file or an invalid row.
    """
    return Dataset(_loader(name), lambda: chain.from_iterable(read_rows(Path(path)) for path in paths))


def dataset_of(name: str, rows: Iterable[Mapping[str, Any]]) -> Dataset:
    """A dataset from rows in memory, such as a split of the `datasets` library."""
    return Dataset(_loader(name), lambda: (Row(row, f"{name}, row {number}") for number, row in enumerate(rows, 1)))


def _loader(name: str) -> Loader:
    loader: Loader = registry.load("dataset", name, DATASETS)
    return loader
