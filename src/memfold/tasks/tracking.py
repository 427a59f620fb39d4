"""Variable tracking, after RULER: chains of sentences in filler, each of which refers to the name of the one before.

Only the first sentence of a chain states a number; the question gives a number and asks for all names that have it.
Other chains of the same form in the document are distractors, about which the same question can be asked.  The task is
for evaluation.  Unlike in RULER, the chains are sentences, not assignments to variables.
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


def tracking(
    seed: int,
    size: int,
    encode: Encode,
    level: int = 3,
    chains: int = CHAINS,
    hops: int = HOPS,
    text: str = "",
) -> Sample:
    """The question about the first of `chains` chains (see `tracking_questions`)."""
    return tracking_questions(seed, size, encode, level, chains, hops, text)[0]


def tracking_questions(
    seed: int,
    size: int,
    encode: Encode,
    level: int = 3,
    chains: int = CHAINS,
    hops: int = HOPS,
    text: str = "",
) -> list[Sample]:
    """A question about each of `chains` chains of `hops` steps in one document of at most `size` tokens.

    The chains are planted in filler or, if given, in `text`, which is repeated if it is too short.

    Raises:
        ConfigError: if the chains leave no room for other sentences.
    """
    rng = Random(seed)
    namer = Namer(rng, level)
    numbers = [str(number) for number in rng.sample(range(10_000, 100_000), chains)]
    names = [[namer.name("key")[0] for _ in range(hops + 1)] for _ in numbers]
    planted: list[tuple[float, str]] = []
    for number, chain in zip(numbers, names, strict=True):
        depths = sorted(rng.random() for _ in chain)
        planted += zip(depths, _statements(number, chain), strict=True)
    room = size - sum(len(encode(f" {statement}")) for _, statement in planted)
    sentences = text_sentences(text) if text else filler_sentences(rng)
    page = plant(gather(sentences, room, encode), planted)
    document = Document(f"tracking-{seed}", text=page.text)
    samples = []
    for index, (number, chain) in enumerate(zip(numbers, names, strict=True)):
        own = slice(index * len(chain), (index + 1) * len(chain))
        sample = Sample(
            task="tracking",
            document=document,
            question=f"Which {len(chain)} names have the number {number}, by themselves or through others?",
            answers=tuple(chain),
            target=", ".join(chain),
            evidence=page.spans[own],
            support=tuple(statement for _, statement in planted[own]),
            kind=LISTING,
            hops=hops,
            level=level,
        )
        samples.append(sample)
    return samples


def _statements(number: str, chain: list[str]) -> list[str]:
    follow = [f"The number of {name} is that of {before}." for before, name in pairwise(chain)]
    return [f"The number of {chain[0]} is {number}.", *follow]
