"""Makes the cases of datasets in local files (--data) from the first questions of each dataset.

The size of a document is its number of tokens rounded up to a power of two, so that tables have few rows; documents of
one size run together.  Questions are not chosen at random, which would need the whole file; shuffle the file instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from memfold.core.document import Document
from memfold.core.errors import ConfigError, DataError, unknown
from memfold.core.model import Model
from memfold.core.types import Sample
from memfold.evaluation.sampling import GREEDY
from memfold.evaluation.suite import Case, Options, document_seed
from memfold.tasks.datasets.table import load_dataset

FORM = "NAME=PATH"


def sources(suite: str, data: Sequence[str], names: Sequence[str]) -> dict[str, list[Path]]:
    """Return the files of each dataset, in the order in which they were named.

    Raises:
        ConfigError: without any, for another form, or a dataset that is not one of `names`.
        DataError: for a file that is not there.
    """
    found: dict[str, list[Path]] = {}
    known = ", ".join(names)
    for entry in data:
        name, equals, path = entry.partition("=")
        if not equals or not path:
            raise ConfigError(f"--data {entry!r} cannot be read; write {FORM} with one of {known}")
        if name not in names:
            raise unknown("dataset of --data", name, names)
        if not Path(path).is_file():
            raise DataError(f"--data {entry!r}: no file at {path}; docs/data.md says where each dataset comes from")
        found.setdefault(name, []).append(Path(path))
    if not found:
        raise ConfigError(f"suite {suite!r} needs local files; give --data {FORM} with one of {known}")
    return found


def ignored(options: Options) -> tuple[str, ...]:
    """Return the options that only generated documents depend on; the seed counts where replies are sampled."""
    return ("level", "splits", "per_document", *(("seed",) if options.sampling == GREEDY else ()))


def spread(questions: int, count: int) -> list[int]:
    """Return the number of questions of each of `count` datasets; the first ones take the remainder."""
    each, rest = divmod(questions, count)
    return [each + (number < rest) for number in range(count)]


def cases(
    suite: str, name: str, paths: Sequence[Path], questions: int, options: Options, model: Model
) -> Iterator[Case]:
    """Yield the first questions of one dataset whose document is not longer than the longest of the lengths, by size.

    Raises:
        DataError: for a row that cannot be read, or when no document is short enough.
    """
    found = list(_first(suite, name, paths, questions, options, model))
    if questions and not found:
        raise DataError(f"no document of {name} has {max(options.lengths)} tokens or fewer; use larger --lengths")
    yield from sorted(found, key=lambda case: case.size)


def _first(
    suite: str, name: str, paths: Sequence[Path], questions: int, options: Options, model: Model
) -> Iterator[Case]:
    split = "in" if name in options.trained_on else "out"
    longest, asked, number, tokens = max(options.lengths), 0, -1, 0
    before: Document | None = None
    for sample in load_dataset(name, *paths):
        if asked == questions:
            return
        if sample.document is not before:
            before, number, tokens = sample.document, number + 1, len(model.encode(sample.document.read()))
        if tokens <= longest:
            seed = document_seed(suite, name, number)
            named = _named(sample, name, split, seed)
            yield Case(f"{split}/{name}/{asked}", named, named.answers, seed, rounded(tokens))
            asked += 1


def rounded(tokens: int) -> int:
    """Return the smallest power of two that is not less.

    >>> rounded(1), rounded(1000), rounded(1024)
    (1, 1024, 1024)
    """
    return 1 << max(0, tokens - 1).bit_length()


def dataset_of(key: str) -> str:
    """Return the dataset of a case by its key."""
    return key.split("/")[1]


def _named(sample: Sample, name: str, split: str, seed: int) -> Sample:
    """Return the sample with a unique document name; rows without an id are named after their file."""
    document = replace(sample.document, source=f"{sample.document.source}#{seed:x}")
    return replace(sample, task=name, document=document, split=split)
