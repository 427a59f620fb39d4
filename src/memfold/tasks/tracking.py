"""Variable tracking, after RULER: names that share a number, each said to have that of the one before, in filler.

Only the first name of a chain is said to have the number; the question gives the number and wants all names of its
chain.  Other chains of the same shape are the distractors.  For evaluation; left out: programs in place of sentences.
"""

from __future__ import annotations

from itertools import pairwise
from random import Random

from memfold.core.document import Document
from memfold.core.types import Sample
from memfold.tasks.haystack import filler_sentences, gather, plant, text_sentences
from memfold.tasks.names import Namer
from memfold.tasks.task import Encode

CHAINS, HOPS = 2, 4
LISTING = "listing"


def tracking(seed: int, size: int, encode: Encode, level: int = 3, chains: int = CHAINS, hops: int = HOPS,
             text: str = "") -> Sample:  # fmt: skip
    """One question about one of `chains` chains of `hops` steps, in a document of at most `size` tokens.

    They are hidden in filler, or in the sentences of a `text`, from its beginning and again where it is too short.

    Raises:
        ConfigError: when the chains leave no room for a sentence of filler.
    """
    rng = Random(seed)
    namer = Namer(rng, level)
    numbers = [str(number) for number in rng.sample(range(10_000, 100_000), chains)]
    names = [[namer.name("key")[0] for _ in range(hops + 1)] for _ in numbers]
    planted = [
        step
        for number, chain in zip(numbers, names, strict=True)
        for step in zip(sorted(rng.random() for _ in chain), _statements(number, chain), strict=True)
    ]
    room = size - sum(len(encode(f" {statement}")) for _, statement in planted)
    around = text_sentences(text) if text else filler_sentences(rng)
    whole = plant(gather(around, room, encode), planted)
    asked = slice(0, hops + 1)
    return Sample(
        task="tracking",
        document=Document(f"tracking-{seed}", text=whole.text),
        question=f"Which {hops + 1} names have the number {numbers[0]}, by themselves or through others?",
        answers=tuple(names[0]),
        target=", ".join(names[0]),
        evidence=whole.spans[asked],
        support=tuple(statement for _, statement in planted[asked]),
        kind=LISTING,
        hops=hops,
        level=level,
    )


def _statements(number: str, chain: list[str]) -> list[str]:
    follow = [f"The number of {name} is that of {before}." for before, name in pairwise(chain)]
    return [f"The number of {chain[0]} is {number}.", *follow]
