"""Tasks on local files that a recipe names: text for pretraining, summaries, and the questions of published datasets.

Text is packed: documents follow each other, a blank line between them, and a sample is a window of exactly `size`
tokens that begins anywhere.  Questions are taken with a document that is short enough, uncut.  Left out: what is drawn
from the files, and what is held out of them (`memfold.tasks.datasets.corpus`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import TypeVar

from memfold.core.document import Document
from memfold.core.errors import ConfigError, DataError
from memfold.core.types import Sample
from memfold.tasks.datasets.corpus import draw_rows, questions_of, text_of
from memfold.tasks.instructions import instruction
from memfold.tasks.reconstruction import continued, repeated
from memfold.tasks.task import Encode, TaskOptions

BREAK = "\n\n"
TRIES = 200
MOST_CHARACTERS = 16  # to a token: what is cut out of a book before its tokens are counted
T = TypeVar("T")
Tokens = tuple[int, ...]


def packed_window(rng: Random, size: int, options: TaskOptions, encode: Encode) -> Tokens:
    """Exactly `size` tokens in a row of documents that follow each other."""
    tokens: list[int] = []
    for row in draw_rows(rng, options.files, options.held_out):
        found = encode(_stretch(rng, text_of(row), size * MOST_CHARACTERS) + BREAK)
        tokens += found if tokens else found[rng.randrange(len(found)) :]
        if len(tokens) >= size:
            break
    return tuple(tokens[:size])


def text(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """A window of text for plain language modelling."""
    tokens = packed_window(Random(seed), size, options, encode)
    document = Document(source=f"text-{seed}", tokens=tokens)
    return [Sample(task="text", document=document, question="", target=tokens, kind="text", split=options.split)]


def text_reconstruction(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """A window of text, to be written again."""
    rng = Random(seed)
    return repeated("text-reconstruction", rng, seed, packed_window(rng, size, options, encode), options)


def text_continuation(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """The first half of a window as memory, bridge chunks as they are, the rest as target.

    Raises:
        ConfigError: when `size` holds fewer than two groups.
    """
    if size < 2 * options.ratio:
        raise ConfigError(f"size {size} is too small to continue; use at least two groups, {2 * options.ratio} tokens")
    rng = Random(seed)
    return continued("text-continuation", rng, seed, packed_window(rng, size, options, encode), options)


def summaries(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """The `text` of a row and its `summary`."""
    rng = Random(seed)
    for row in _tries(draw_rows(rng, options.files, options.held_out)):
        tokens, summary = tuple(encode(text_of(row))), row.text("summary")
        if 0 < len(tokens) <= size:
            document = Document(source=f"summaries-{seed}", tokens=tokens)
            question = instruction(rng, "summarisation")
            return [Sample("summaries", document, question, target=f" {summary.strip()}", kind="summaries")]
    raise _too_long(size, options)


def questions(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """A question of a dataset, with its document."""
    rng = Random(seed)
    assert options.dataset is not None, "the recipe names one"
    samples = questions_of(options.dataset, options.files, options.held_out)
    for sample in _tries(rng.choice(samples) for _ in range(TRIES)):
        tokens = tuple(encode(sample.document.read()))
        if 0 < len(tokens) <= size:
            return [replace(sample, task="questions", document=replace(sample.document, tokens=tokens))]
    raise _too_long(size, options)


def _stretch(rng: Random, whole: str, characters: int) -> str:
    """All of a text, or so many characters from somewhere in it."""
    start = rng.randrange(len(whole) - characters) if len(whole) > characters else 0
    return whole[start : start + characters]


def _tries(found: Iterator[T]) -> Iterator[T]:
    for _, one in zip(range(TRIES), found, strict=False):
        yield one


def _too_long(size: int, options: TaskOptions) -> DataError:
    return DataError(
        f"{', '.join(options.files)}: {TRIES} rows drawn, and no document of at most {size} tokens; use larger sizes"
    )
