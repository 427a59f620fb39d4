"""What a document costs a system: the figures that plans of training and of benchmarks are made from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pass:
    """`count` forward passes of an encoder over `tokens` tokens each, with causal or bidirectional attention."""

    count: int
    tokens: int
    causal: bool = True


@dataclass(frozen=True)
class Footprint:
    """The cost of a document: decoder positions, tokens `encoded` in forward `passes`, and slots projected.

    `written` is the largest number of tokens that the calls before the answer write.
    """

    positions: float
    encoded: float = 0.0
    slots: int = 0
    passes: Pass | None = None
    written: float = 0.0
