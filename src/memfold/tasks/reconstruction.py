"""Tasks on token ids that teach a memory to hold its text: whole, one group, continued, and found by a cue.

Each cuts a window of tokens out of an almanac document; nothing is tokenised again after the cut.  Left out: prose
from files, which a recipe brings in by itself.
"""

from __future__ import annotations

from collections import Counter
from random import Random

from memfold.core.document import Document
from memfold.core.errors import ConfigError
from memfold.core.types import Sample
from memfold.tasks.almanac.task import write
from memfold.tasks.instructions import INSTRUCTIONS, instruction
from memfold.tasks.task import Encode, TaskOptions

SMALLEST_PAGE = 128
CUE_LENGTHS = (4, 5, 6)
SHORTEST_TARGET, LONGEST_TARGET = 20, 30
_TRIES_PER_CUE = 8

Tokens = tuple[int, ...]


def window(rng: Random, size: int, options: TaskOptions, encode: Encode) -> Tokens:
    """Exactly `size` tokens in a row from somewhere in an almanac document."""
    wanted = max(SMALLEST_PAGE, size + size // 6 + 4)
    tokens: list[int] = []
    while len(tokens) < size:
        tokens = encode(write(rng, wanted, options, encode).text)
        wanted += wanted // 4
    start = rng.randint(0, len(tokens) - size)
    return tuple(tokens[start : start + size])


def reconstruction(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """All tokens of a document, to be written again."""
    return _whole("reconstruction", seed, size, options, encode)


def group(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """`options.samples` documents of one group each, cut from one page: `size` is meant to be the ratio.

    The instruction is always the shortest, which would otherwise take more places than the group.
    """
    rng = Random(seed)
    tokens = window(rng, size * options.samples, options, encode)
    shortest = min(INSTRUCTIONS["reconstruction"], key=len)
    pieces = [tokens[start : start + size] for start in range(0, len(tokens), size)]
    return [
        _sample("group", Document(f"group-{seed}-{number}", tokens=piece), shortest, options, piece)
        for number, piece in enumerate(pieces)
    ]


def continuation(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """About the first half of a text as memory, some bridge chunks as they are, and the rest as target.

    Raises:
        ConfigError: when `size` holds fewer than two groups.
    """
    check_continuable(size, options)
    rng = Random(seed)
    return continued("continuation", rng, seed, window(rng, size, options, encode), options)


def check_continuable(size: int, options: TaskOptions) -> None:
    """Raise a `ConfigError` when a text of `size` tokens holds fewer than two groups."""
    if size < 2 * options.ratio:
        raise ConfigError(f"size {size} is too small to continue; use at least two groups, {2 * options.ratio} tokens")


def continued(task: str, rng: Random, seed: int, tokens: Tokens, options: TaskOptions) -> list[Sample]:
    """The sample of a text to be continued."""
    size = len(tokens)
    memory = max(1, size // 2 // options.ratio) * options.ratio
    most = (size - memory - 1) // options.ratio
    fewest, highest = (min(bound, most) for bound in options.bridges)
    target = memory + rng.randint(fewest, highest) * options.ratio
    document = Document(source=f"{task}-{seed}", tokens=tokens[:memory])
    question = instruction(rng, "continuation")
    return [_sample(task, document, question, options, tokens[target:], tokens[memory:target])]


def cued(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """Cues of 4-6 tokens that stand at one place of the document only, each with the next 20-30 tokens as target.

    There are `options.samples` of them, or fewer in a document with fewer such places.

    Raises:
        ConfigError: when the document is not longer than a cue.
    """
    longest = max(CUE_LENGTHS)
    if size < 2 * longest:
        raise ConfigError(f"size {size} is too small for cues; use at least {2 * longest} tokens")
    rng = Random(seed)
    tokens = window(rng, size, options, encode)
    document = Document(source=f"cued-{seed}", tokens=tokens)
    counts: dict[int, Counter[Tokens]] = {}
    shortest = min(SHORTEST_TARGET, size // 2)
    taken: set[int] = set()
    samples: list[Sample] = []
    for _ in range(options.samples * _TRIES_PER_CUE):
        if len(samples) == options.samples:
            break
        length = rng.choice(CUE_LENGTHS)
        start = rng.randint(0, size - shortest - length)
        end = start + length
        if length not in counts:
            counts[length] = Counter(tokens[at : at + length] for at in range(size - length + 1))
        if start in taken or counts[length][tokens[start:end]] > 1:
            continue
        taken.add(start)
        target = tokens[end : end + rng.randint(shortest, LONGEST_TARGET)]
        question = instruction(rng, "cued")
        samples.append(_sample("cued", document, question, options, target, tokens[start:end]))
    return samples


def _whole(task: str, seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    rng = Random(seed)
    return repeated(task, rng, seed, window(rng, size, options, encode), options)


def repeated(task: str, rng: Random, seed: int, tokens: Tokens, options: TaskOptions) -> list[Sample]:
    """The sample of a text to be written again."""
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
