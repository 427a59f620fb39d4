"""The aggregation tasks of RULER: which words occur most often in a long list?

Nothing in such a document answers alone: every part of it counts.  `common_words` is a numbered list in which ten words
occur thirty times each and all others three times.  `frequent_words` are coded words whose numbers of occurrences fall
with the square of their rank (a Zipf distribution); the most frequent of all are dots, which do not count.  Words are
invented, and none is part of another.  The tasks are for evaluation.  They leave out RULER's worked example before the
list.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count, islice, takewhile
from random import Random

from memfold.core.document import Document
from memfold.core.errors import ConfigError
from memfold.core.types import Sample
from memfold.tasks.haystack import as_many
from memfold.tasks.names import OPEN_SYLLABLES, SYLLABLES
from memfold.tasks.task import Encode, TaskOptions
from memfold.tasks.tracking import LISTING

COMMON, COMMON_TIMES, RARE_TIMES = 10, 30, 3  # common words, how often each occurs, and how often any other does
FREQUENT, ZIPF = 3, 2  # frequent words that are asked for, and the power of the rank by which occurrences fall
TOTAL = math.pi**2 / 6  # of rank ** -ZIPF over all ranks
DOTS = "..."  # in place of the most frequent word


def common_words(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """The question for the `COMMON` words that occur most often in a list of at most `size` tokens.

    In a list of few items a common word occurs less often, so that half of the items are other words.

    Raises:
        ConfigError: if the common words cannot occur twice.
    """
    items = as_many(size, lambda items: _numbered(_listed(seed, items)[1]), encode)
    if _times(items)[0] < 2:
        raise ConfigError(f"{size} tokens have no room for {COMMON} words that occur twice; use larger --lengths")
    common, listed = _listed(seed, items)
    question = f"Which {COMMON} words occur most often in the list?"
    return [_sample("common-words", seed, _numbered(listed), question, common, options)]


def frequent_words(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """The question for the `FREQUENT` coded words that occur most often in a text of at most `size` tokens.

    Raises:
        ConfigError: if the last of them does not occur more often than the next word.
    """
    words = as_many(size, lambda words: " ".join(_coded(seed, words)[1]), encode)
    last, other = [*_occurrences(words), *[0] * (FREQUENT + 2)][FREQUENT : FREQUENT + 2]
    if last <= other:
        raise ConfigError(
            f"{size} tokens have no room for {FREQUENT} words that occur more often than others; use larger --lengths"
        )
    frequent, coded = _coded(seed, words)
    question = f"Which {FREQUENT} coded words occur most often? The dots do not count."
    return [_sample("frequent-words", seed, " ".join(coded), question, frequent, options)]


def _listed(seed: int, items: int) -> tuple[list[str], list[str]]:
    """Return the common words, and a list of so many items with them."""
    rng = Random(seed)
    words = _invented(rng)
    times, rare_times = _times(items)
    common = list(islice(words, COMMON))
    left = items - times * COMMON
    rare = [word for word in islice(words, -(-left // rare_times)) for _ in range(rare_times)]
    listed = common * times + rare[:left]
    rng.shuffle(listed)
    return common, listed


def _times(items: int) -> tuple[int, int]:
    """Return how often a common word and any other occur in a list of so many items."""
    times = min(COMMON_TIMES, items // (2 * COMMON))
    return times, max(1, times * RARE_TIMES // COMMON_TIMES)


def _numbered(words: list[str]) -> str:
    return " ".join(f"{number}. {word}" for number, word in enumerate(words, 1))


def _coded(seed: int, words: int) -> tuple[list[str], list[str]]:
    """Return the frequent words, and a text of about so many words with them."""
    rng = Random(seed)
    occurrences = _occurrences(words)
    ranked = [DOTS, *islice(_invented(rng), len(occurrences) - 1)]
    text = [word for word, times in zip(ranked, occurrences, strict=True) for _ in range(times)]
    rng.shuffle(text)
    return ranked[1 : FREQUENT + 1], text


def _occurrences(words: int) -> list[int]:
    """Return how often the word of each rank occurs in about so many words, those of the dots first."""
    each = (int(words / TOTAL / rank**ZIPF) for rank in count(1))
    return list(takewhile(bool, each)) or [1]


def _invented(rng: Random) -> Iterator[str]:
    """Yield endless words of three syllables, each once.

    The last syllable ends in a vowel: a word that ends in a consonant could begin with another.
    """
    used: set[str] = set()
    while True:
        word = "".join((*rng.choices(SYLLABLES, k=2), rng.choice(OPEN_SYLLABLES)))
        if word not in used:
            used.add(word)
            yield word


def _sample(task: str, seed: int, text: str, question: str, words: list[str], options: TaskOptions) -> Sample:
    return Sample(
        task=task,
        document=Document(f"{task}-{seed}", text=text),
        question=question,
        answers=tuple(words),
        target=", ".join(words),
        kind=LISTING,
        split=options.split,
        level=options.level,
    )
