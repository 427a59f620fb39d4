"""Tasks on token ids that train a memory to preserve its text.

These are reconstruction, one group, one sentence, continuation and cued recall.  Each task cuts a window of tokens out
of an almanac document, and nothing is tokenised again after the cut.  With `options.kinds`, needles of these kinds are
planted in the document, so that numbers and codes are preserved too.  The same tasks on text from files are in `local`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from random import Random

from memfold.core.document import Document
from memfold.core.errors import ConfigError
from memfold.core.types import Sample
from memfold.tasks.almanac.task import write
from memfold.tasks.instructions import INSTRUCTIONS, instruction
from memfold.tasks.needle import plant
from memfold.tasks.task import Encode, TaskOptions

MIN_PAGE = 128
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
CUE_LENGTHS = (4, 5, 6)
MIN_TARGET, MAX_TARGET = 20, 30
_TRIES_PER_CUE = 8

Tokens = tuple[int, ...]


def window(rng: Random, size: int, options: TaskOptions, encode: Encode) -> Tokens:
    """Exactly `size` consecutive tokens from a random position in an almanac document."""
    page_size = max(MIN_PAGE, size + size // 6 + 4)
    tokens: list[int] = []
    while len(tokens) < size:
        tokens = encode(_page(rng, page_size, options, encode))
        page_size += page_size // 4
    start = rng.randint(0, len(tokens) - size)
    return tuple(tokens[start : start + size])


def _page(rng: Random, size: int, options: TaskOptions, encode: Encode) -> str:
    """The text of an almanac document of about `size` tokens; kinds of needles are not kinds of almanac questions."""
    text = write(rng, size, replace(options, kinds=()), encode).text
    return " ".join(plant(rng, SENTENCE_END.split(text), options)) if options.kinds else text


def reconstruction(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """All tokens of a document, to be reproduced."""
    rng = Random(seed)
    return repeated("reconstruction", rng, seed, window(rng, size, options, encode), options)


def group(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """`options.samples` documents of one group each, cut from one page; `size` should be the ratio.

    The instruction is always the shortest one; others may have more tokens than the group.
    """
    rng = Random(seed)
    tokens = window(rng, size * options.samples, options, encode)
    shortest = min(INSTRUCTIONS["reconstruction"], key=len)
    pieces = [tokens[start : start + size] for start in range(0, len(tokens), size)]
    return [
        _sample("group", Document(f"group-{seed}-{number}", tokens=piece), shortest, options, piece)
        for number, piece in enumerate(pieces)
    ]


def sentence(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """`options.samples` documents of one sentence each, of at most `size` tokens; longer ones are cut."""
    rng = Random(seed)
    shortest = min(INSTRUCTIONS["reconstruction"], key=len)
    sentences: list[str] = []
    while len(sentences) < options.samples:
        sentences += SENTENCE_END.split(_page(rng, MIN_PAGE * 4, options, encode))
    pieces = [tuple(encode(f" {text}")[:size]) for text in rng.sample(sentences, options.samples)]
    return [
        _sample("sentence", Document(f"sentence-{seed}-{number}", tokens=piece), shortest, options, piece)
        for number, piece in enumerate(pieces)
    ]


def continuation(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """A text: about the first half is the memory, some bridge chunks stay uncompressed, and the rest is the target.

    Raises:
        ConfigError: if `size` is less than two groups.
    """
    check_continuable(size, options)
    rng = Random(seed)
    return continued("continuation", rng, seed, window(rng, size, options, encode), options)


def check_continuable(size: int, options: TaskOptions) -> None:
    """Raise `ConfigError` if a text of `size` tokens has fewer than two groups."""
    if size < 2 * options.ratio:
        raise ConfigError(f"size {size} is too small to continue; use at least two groups, {2 * options.ratio} tokens")


def continued(task: str, rng: Random, seed: int, tokens: Tokens, options: TaskOptions) -> list[Sample]:
    """One sample: the beginning of a text, to be continued."""
    size = len(tokens)
    memory = max(1, size // 2 // options.ratio) * options.ratio
    room = (size - memory - 1) // options.ratio
    fewest, most = (min(bound, room) for bound in options.bridges)
    target = memory + rng.randint(fewest, most) * options.ratio
    document = Document(source=f"{task}-{seed}", tokens=tokens[:memory])
    question = instruction(rng, "continuation")
    return [_sample(task, document, question, options, tokens[target:], tokens[memory:target])]


def cued(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """Cues of 4-6 tokens that occur once in the document; the target of each is the next 20-30 tokens.

    There are `options.samples` of them, or fewer if the document has fewer such cues.

    Raises:
        ConfigError: if `size` is less than two cues.
    """
    longest = max(CUE_LENGTHS)
    if size < 2 * longest:
        raise ConfigError(f"size {size} is too small for cues; use at least {2 * longest} tokens")
    rng = Random(seed)
    tokens = window(rng, size, options, encode)
    document = Document(source=f"cued-{seed}", tokens=tokens)
    counts: dict[int, Counter[Tokens]] = {}
    shortest = min(MIN_TARGET, size // 2)
    used: set[int] = set()
    samples: list[Sample] = []
    for _ in range(options.samples * _TRIES_PER_CUE):
        if len(samples) == options.samples:
            break
        length = rng.choice(CUE_LENGTHS)
        start = rng.randint(0, size - shortest - length)
        end = start + length
        if length not in counts:
            counts[length] = Counter(tokens[first : first + length] for first in range(size - length + 1))
        if start in used or counts[length][tokens[start:end]] > 1:
            continue
        used.add(start)
        target = tokens[end : end + rng.randint(shortest, MAX_TARGET)]
        question = instruction(rng, "cued")
        samples.append(_sample("cued", document, question, options, target, tokens[start:end]))
    return samples


def repeated(task: str, rng: Random, seed: int, tokens: Tokens, options: TaskOptions) -> list[Sample]:
    """One sample: a text to be reproduced."""
    document = Document(source=f"{task}-{seed}", tokens=tokens)
    return [_sample(task, document, instruction(rng, "reconstruction"), options, tokens)]


def _sample(
    task: str, document: Document, question: str, options: TaskOptions, target: Tokens, bridge: Tokens = ()
) -> Sample:
    return Sample(
        task=task,
        document=document,
        question=question,
        target=target,
        bridge=bridge,
        kind=task,
        split=options.split,
        level=options.level,
    )
