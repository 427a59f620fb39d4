"""Are two systems different, given what each said to the same questions?

McNemar's test in its exact form: of the questions that only one of them answers, is the split further from even than
chance makes it?  Left out: corrections for many comparisons, and for questions that share a document.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb


def alone(values: Sequence[bool], others: Sequence[bool]) -> tuple[int, int]:
    """How many only the first side has right, and how many only the second.

    Raises:
        ValueError: for sides of different length.
    """
    if len(values) != len(others):
        raise ValueError(f"pairs need two sides of the same length, not {len(values)} and {len(others)}")
    pairs = list(zip(values, others, strict=True))
    return sum(one and not other for one, other in pairs), sum(other and not one for one, other in pairs)


def mcnemar(first: int, second: int) -> float:
    """The two-sided exact p of `first` against `second` questions that one side alone has right; 1 without any.

    >>> mcnemar(1, 9)
    0.021484375
    """
    count = first + second
    tail = sum(comb(count, number) for number in range(min(first, second) + 1))
    return float(min(1.0, 2 * tail / 2**count))
