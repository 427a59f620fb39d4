"""Tasks on local files that a recipe names: text for pretraining, summaries, and the questions of published datasets.

Text is packed: documents follow each other, a blank line between them, and a sample is a window of exactly `size`
tokens that begins anywhere.  The document of a question is whole where it is short enough, else a stretch of it with
the evidence, or with the answer.  Left out: what is drawn from the files, and what is held out of them
(`memfold.tasks.datasets.corpus`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import TypeVar

from memfold.core.document import Document
from memfold.core.errors import DataError
from memfold.core.types import Sample
from memfold.tasks.datasets.corpus import draw_rows, questions_of, text_of
from memfold.tasks.instructions import instruction
from memfold.tasks.reconstruction import check_continuable, continued, repeated
from memfold.tasks.task import Encode, TaskOptions

BREAK = "\n\n"
TRIES = 200
AROUND = 64  # tokens from the beginning of what answers a question on
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
    check_continuable(size, options)
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
        tokens = _read(rng, sample, size, encode)
        if tokens:
            document = replace(sample.document, tokens=tokens)
            return [replace(sample, task="questions", document=document, evidence=())]
    raise _too_long(size, options)


def _read(rng: Random, sample: Sample, size: int, encode: Encode) -> Tokens:
    """The document of a question, or `size` tokens of it around what answers it; nothing where that is not found."""
    whole = sample.document.read()
    if len(whole) <= size * MOST_CHARACTERS:
        tokens = encode(whole)
        if len(tokens) <= size:
            return tuple(tokens)
    place = sample.evidence[0].start if sample.evidence else whole.lower().find(sample.answers[0].lower())
    if place < 0:
        return ()
    place = max(0, whole.rfind(" ", 0, place))  # a word keeps the space before it
    reach = size * MOST_CHARACTERS
    before, after = encode(whole[max(0, place - reach) : place]), encode(whole[place : place + reach])
    kept = min(len(before), rng.randint(0, max(0, size - AROUND)))
    kept = max(kept, min(len(before), size - len(after)))
    return tuple(before[len(before) - kept :] + after)[:size]


def _stretch(rng: Random, whole: str, characters: int) -> str:
    """All of a text, or so many characters from somewhere in it."""
    start = rng.randrange(len(whole) - characters) if len(whole) > characters else 0
    return whole[start : start + characters]


def _tries(found: Iterator[T]) -> Iterator[T]:
    for _, one in zip(range(TRIES), found, strict=False):
        yield one


def _too_long(size: int, options: TaskOptions) -> DataError:
    return DataError(
        f"{', '.join(options.files)}: {TRIES} rows drawn, and none with a document of at most {size} tokens"
        "; use larger sizes"
    )
