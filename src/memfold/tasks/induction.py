"""Practice for copying what followed the last time: sequences of symbols in which repeats are frequent and reliable.

A model trained from scratch forms its induction heads on these in minutes, and on ordinary text hardly at all.  The
symbols are ordinary tokens of the almanac, a new few for each sequence, so that nothing but the sequence tells what
comes next.
"""

from __future__ import annotations

from functools import lru_cache
from random import Random

from memfold.core.document import Document
from memfold.core.types import Sample
from memfold.tasks.almanac.task import write
from memfold.tasks.names import SYLLABLES
from memfold.tasks.task import Encode, TaskOptions

KINDS = ("spans", "cycle")
SHORTEST_SPAN, LONGEST_SPAN = 3, 12
SHORTEST_RUN, LONGEST_RUN = 4, 16
SMALLEST_CYCLE, LARGEST_CYCLE = 6, 32
_PAGE_TOKENS = 4096


@lru_cache(maxsize=2)  # a bound method keeps its model alive
def symbols(encode: Encode) -> tuple[int, ...]:
    """The token ids of syllables, first in a word and inside one, and of an almanac page."""
    found: set[int] = set()
    for syllable in SYLLABLES:
        found.update(encode(f" {syllable.capitalize()}{syllable}"))
    found.update(encode(write(Random(0), _PAGE_TOKENS, TaskOptions(level=3), encode).text))
    return tuple(sorted(found))


def induction(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """`options.samples` sequences of `size` token ids, each with an empty document and the sequence as target."""
    rng = Random(seed)
    pool = symbols(encode)
    document = Document(source=f"induction-{seed}", tokens=())
    samples = []
    for _ in range(options.samples):
        kind = rng.choice(options.kinds or KINDS)
        sequence = spans(rng, size, pool) if kind == "spans" else cycle(rng, size, pool)
        samples.append(
            Sample(
                task="induction",
                document=document,
                question="",
                target=tuple(sequence),
                kind=kind,
                split=options.split,
                level=options.level,
            )
        )
    return samples


def spans(rng: Random, size: int, pool: tuple[int, ...]) -> list[int]:
    """A few random spans, one after another in random order."""
    count = max(2, size // 24)
    chosen = [
        rng.sample(pool, min(rng.randint(SHORTEST_SPAN, LONGEST_SPAN), len(pool)))
        for _ in range(rng.randint(2, max(2, count)))
    ]
    sequence: list[int] = []
    while len(sequence) < size:
        sequence += rng.choice(chosen)
    return sequence[:size]


def cycle(rng: Random, size: int, pool: tuple[int, ...]) -> list[int]:
    """Runs along one random cycle of symbols, each from a new place."""
    length = min(rng.randint(SMALLEST_CYCLE, max(SMALLEST_CYCLE, min(LARGEST_CYCLE, size // 3))), len(pool))
    ring = rng.sample(pool, length)
    sequence: list[int] = []
    while len(sequence) < size:
        start = rng.randrange(length)
        sequence += (ring[(start + step) % length] for step in range(rng.randint(SHORTEST_RUN, LONGEST_RUN)))
    return sequence[:size]
