"""Training data for induction heads: token sequences with frequent and reliable repetitions.

A model trained from scratch learns on these within minutes to copy what followed an earlier occurrence; on ordinary
text it hardly learns it.  The tokens are those of the almanac.  Each sequence uses a few random ones, so that only the
sequence itself tells what comes next.
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


@lru_cache(maxsize=2)  # small, because a bound method keeps its model alive
def symbols(encode: Encode) -> tuple[int, ...]:
    """The token ids of an almanac page, and of all syllables at the beginning of a word and inside it."""
    tokens: set[int] = set()
    for syllable in SYLLABLES:
        tokens.update(encode(f" {syllable.capitalize()}{syllable}"))
    tokens.update(encode(write(Random(0), _PAGE_TOKENS, TaskOptions(level=3), encode).text))
    return tuple(sorted(tokens))


def induction(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """`options.samples` sequences of `size` token ids: the target is the sequence, the document is empty."""
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
    """A few random spans, repeated in random order."""
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
    """Runs along one random cycle of symbols, each from a random position."""
    length = min(rng.randint(SMALLEST_CYCLE, max(SMALLEST_CYCLE, min(LARGEST_CYCLE, size // 3))), len(pool))
    ring = rng.sample(pool, length)
    sequence: list[int] = []
    while len(sequence) < size:
        start = rng.randrange(length)
        sequence += (ring[(start + step) % length] for step in range(rng.randint(SHORTEST_RUN, LONGEST_RUN)))
    return sequence[:size]
