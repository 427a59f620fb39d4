"""The exact McNemar test: do two systems differ in accuracy on the same questions?

It considers the questions that only one of the systems answers correctly, and tests whether they are split evenly.
There is no correction for multiple comparisons or for questions that share a document.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import comb


def discordant(first: Sequence[bool], second: Sequence[bool]) -> tuple[int, int]:
    """Return how many outcomes only the first list has as true, and how many only the second.

    Raises:
        ValueError: if the lists differ in length.
    """
    if len(first) != len(second):
        raise ValueError(f"pairs need two lists of the same length, not {len(first)} and {len(second)}")
    pairs = Counter(zip(first, second, strict=True))
    return pairs[True, False], pairs[False, True]


def mcnemar(first: int, second: int) -> float:
    """Return the two-sided exact p-value for `first` and `second` discordant outcomes; 1 if there are none.

    >>> mcnemar(1, 9)
    0.021484375
    """
    count = first + second
    tail = sum(comb(count, number) for number in range(min(first, second) + 1))
    return float(min(1.0, 2 * tail / 2**count))
