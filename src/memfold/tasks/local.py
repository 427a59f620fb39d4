"""Tasks on local files that a recipe names: text for pretraining, summaries, and questions of published datasets.

Text is packed: documents are joined by blank lines, and a sample is a window of exactly `size` tokens that may begin
anywhere.  A question comes with its whole document or, if that is too long, with an excerpt around the evidence or the
answer; a long question with paragraphs of other questions, among which its own stand at random.  How rows are drawn and
held out is defined in `memfold.tasks.datasets.corpus`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from random import Random

from memfold.core.document import Document
from memfold.core.errors import DataError
from memfold.core.types import Sample
from memfold.tasks.datasets.corpus import draw_rows, questions_of, text_of
from memfold.tasks.distractors import Distractors
from memfold.tasks.instructions import instruction
from memfold.tasks.reconstruction import check_continuable, continued, repeated
from memfold.tasks.task import Encode, TaskOptions

BREAK = "\n\n"
TRIES = 200
SPARE = 1.2  # tokens of distractors that are drawn, over those needed: paragraphs with the same title count once
AFTER_TOKENS = 64  # of an excerpt, from the beginning of what answers the question
CHARACTERS_PER_TOKEN = 16  # at most; long texts are cut by it before they are tokenised
Tokens = tuple[int, ...]


def packed_window(rng: Random, size: int, options: TaskOptions, encode: Encode) -> Tokens:
    """Exactly `size` consecutive tokens of documents that are joined by blank lines."""
    tokens: list[int] = []
    for row in draw_rows(rng, options.files, options.held_out):
        document = encode(_excerpt(rng, text_of(row), size * CHARACTERS_PER_TOKEN) + BREAK)
        tokens += document if tokens else document[rng.randrange(len(document)) :]
        if len(tokens) >= size:
            break
    return tuple(tokens[:size])


def text(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """A window of text for plain language modelling."""
    tokens = packed_window(Random(seed), size, options, encode)
    document = Document(source=f"text-{seed}", tokens=tokens)
    return [Sample(task="text", document=document, question="", target=tokens, kind="text", split=options.split)]


def text_reconstruction(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """A window of text to be reproduced."""
    rng = Random(seed)
    return repeated("text-reconstruction", rng, seed, packed_window(rng, size, options, encode), options)


def text_continuation(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """A window of text: the first half is the memory, bridge chunks stay uncompressed, and the rest is the target.

    Raises:
        ConfigError: if `size` is less than two groups.
    """
    check_continuable(size, options)
    rng = Random(seed)
    return continued("text-continuation", rng, seed, packed_window(rng, size, options, encode), options)


def summaries(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """The `text` of a row, with its `summary` as the target."""
    rng = Random(seed)
    for row in islice(draw_rows(rng, options.files, options.held_out), TRIES):
        tokens, summary = tuple(encode(text_of(row))), row.text("summary")
        if 0 < len(tokens) <= size:
            document = Document(source=f"summaries-{seed}", tokens=tokens)
            question = instruction(rng, "summarisation")
            return [Sample("summaries", document, question, target=f" {summary.strip()}", kind="summaries")]
    raise _too_long(size, options)


def questions(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """A question of a dataset with its document."""
    rng = Random(seed)
    samples = _asked(options)
    for sample in (rng.choice(samples) for _ in range(TRIES)):
        tokens = _document_tokens(rng, sample, size, encode)
        if tokens:
            document = replace(sample.document, tokens=tokens)
            return [replace(sample, task="questions", document=document, evidence=())]
    raise _too_long(size, options)


def long_questions(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """A question of a dataset with a document of about `size` tokens, and its evidence in it.

    The paragraphs of other questions fill the document, as in the training data of MemAgent (arXiv 2507.02259), where
    about 200 make 28,000 tokens.  Those of questions that are held out are not among them.  The paragraphs of the
    question stand at random places, or at those of the published data.
    """
    rng = Random(seed)
    assert options.dataset is not None, "recipes of this task name a dataset"
    samples = _asked(options)
    pool = questions_of(options.dataset, options.files, held_out=False)
    for sample in (rng.choice(samples) for _ in range(TRIES)):
        distractors = Distractors([sample, *_others(rng, sample, pool, size, encode)], encode, options.places)
        long = next(distractors.lengthened(size, seed), None)
        if long is not None and long.question == sample.question and len(long.evidence) == len(long.support):
            return [replace(long, task="long-questions")]
    raise _too_long(size, options)


def _asked(options: TaskOptions) -> Sequence[Sample]:
    """The questions to draw from."""
    assert options.dataset is not None, "recipes of these tasks name a dataset"
    return questions_of(options.dataset, options.files, options.held_out, options.known, options.in_text)


def _others(rng: Random, sample: Sample, pool: Sequence[Sample], size: int, encode: Encode) -> list[Sample]:
    """Random other samples whose documents fill one of `size` tokens, or all of them."""
    others, filled = list[Sample](), 0
    for other in rng.sample(pool, len(pool)):
        if filled > SPARE * size:
            break
        if other is not sample:
            others.append(other)
            filled += len(encode(other.document.read()))
    return others


def _document_tokens(rng: Random, sample: Sample, size: int, encode: Encode) -> Tokens:
    """The tokens of a question's document, or `size` tokens around its answer; empty if the answer is not found."""
    content, most = sample.document.read(), size * CHARACTERS_PER_TOKEN
    if len(content) <= most:
        tokens = encode(content)
        if len(tokens) <= size:
            return tuple(tokens)
    position = sample.evidence[0].start if sample.evidence else content.lower().find(sample.answers[0].lower())
    if position < 0:
        return ()
    position = max(0, content.rfind(" ", 0, position))  # a word includes the space before it
    before = encode(content[max(0, position - most) : position])
    after = encode(content[position : position + most])
    kept = min(len(before), rng.randint(0, max(0, size - AFTER_TOKENS)))
    kept = max(kept, min(len(before), size - len(after)))
    return tuple(before[len(before) - kept :] + after)[:size]


def _excerpt(rng: Random, content: str, characters: int) -> str:
    """A random excerpt of so many characters, or the whole text if it is shorter."""
    start = rng.randrange(len(content) - characters) if len(content) > characters else 0
    return content[start : start + characters]


def _too_long(size: int, options: TaskOptions) -> DataError:
    return DataError(
        f"{', '.join(options.files)}: none of {TRIES} rows drawn has a document of at most {size} tokens; use larger "
        "sizes"
    )
