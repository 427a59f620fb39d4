"""Every dataset by name, and the samples of local files of it.

A loader takes one row and yields a sample for each of its questions, or None for a question that the dataset itself
marks as having no answer: those are counted and left out.  Whatever else is wrong with a row (a field missing, of
another type, or empty) ends the reading with a `DataError` that names file, row and field, because a file that is not
what it should be makes every figure that comes of it wrong.  Adding a dataset is a file and a line here.
Left out: downloading (docs/data.md says where to), and choosing splits or shuffling, which are the caller's.
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
    """The samples of some rows, read anew each time that they are asked for; those of one document follow each other.

    `skipped` counts the questions without an answer of the reading that was begun last.
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
    """A dataset from local files (JSON Lines, JSON, parquet), one after another.

    Raises:
        ConfigError: for a name that is not in `DATASETS`.
        DataError: while reading, for a file or row that is not as it should be.
    """
    return Dataset(_loader(name), lambda: chain.from_iterable(read_rows(Path(path)) for path in paths))


def dataset_of(name: str, rows: Iterable[Mapping[str, Any]]) -> Dataset:
    """A dataset from rows that are there already, such as a split of the `datasets` library."""
    return Dataset(_loader(name), lambda: (Row(row, f"{name}, row {number}") for number, row in enumerate(rows, 1)))


def _loader(name: str) -> Loader:
    loader: Loader = registry.load("dataset", name, DATASETS)
    return loader
