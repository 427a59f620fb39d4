"""Random positions of slots; the other rules are worked out by hand in test_pooled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import torch

from memfold.core.types import Block
from memfold.systems.pooled import positions
from memfold.systems.pooled.positions import STRETCH, offsets
from memfold.systems.pooled.settings import PooledFold

RANDOM = PooledFold(ratio=4, positions="randomised")


def blocks(*counts: int) -> list[Block]:
    return [Block(number, 0, 0, 4 * count, 0, 0, torch.zeros(count, 8)) for number, count in enumerate(counts)]


def layout(counts: Sequence[int], settings: PooledFold, draw: int = 7, name: str = "m") -> list[list[int]]:
    return list(offsets(blocks(*counts), settings, draw, name))


def positions_of(distances: list[list[int]], width: int) -> list[int]:
    """Distances as positions: a block begins where the one before it ends."""
    base, places = 0, []
    for block in distances:
        places += [base + distance for distance in block]
        base = places[-1] + width if places else 0
    return places


@pytest.mark.parametrize(
    ("wrapper", "expected"),
    [
        ("none", [[0, 3], [1, 2]]),  # at 0 3 5 6: the second block begins at 4
        ("slot", [[0, 5], [1, 4]]),  # at 0 5 9 12, three positions each: the second block begins at 8
    ],
)
def test_random_positions_by_hand(monkeypatch: pytest.MonkeyPatch, wrapper: Any, expected: list[list[int]]) -> None:
    class Rigged(Random):
        def random(self) -> float:
            return 1 / 3  # of the way from once to eight times as long: twice

        def sample(self, population: Any, k: int) -> list[int]:  # type: ignore[override]
            assert (len(population), k) == (8, 4)
            return [5, 0, 6, 3]

    monkeypatch.setattr(positions, "Random", Rigged)
    assert layout((2, 2), replace(RANDOM, wrapper=wrapper)) == expected


@pytest.mark.parametrize("wrapper", ["none", "span", "slot"])
def test_random_positions_are_sorted_apart_and_within_the_stretch(wrapper: Any) -> None:
    width, lengths = 3 if wrapper == "slot" else 1, []
    for draw in range(1, 300):
        distances = layout((5, 0, 4), replace(RANDOM, wrapper=wrapper), draw)
        assert [len(block) for block in distances] == [5, 0, 4]
        places = positions_of([block for block in distances if block], width)
        assert all(after - before >= width for before, after in pairwise(places))
        assert places[0] >= 0
        lengths.append(places[-1] + width)
    assert min(lengths) <= 9 * width + 2, "consecutive slots, or nearly, are among them"
    assert max(lengths) <= 9 * (STRETCH + width - 1)
    assert max(lengths) > 9 * (STRETCH + width - 1) - 18, "and nearly the longest stretch"


def test_a_draw_is_one_layout_and_another_memory_has_another() -> None:
    first = layout((9, 9), RANDOM)
    assert layout((9, 9), RANDOM) == first
    assert layout((9, 9), RANDOM, name="n") != first
    assert layout((9, 9), RANDOM, draw=8) != first


@pytest.mark.parametrize("wrapper", ["none", "slot"])
def test_in_use_random_positions_are_consecutive(wrapper: Any) -> None:
    used = replace(RANDOM, wrapper=wrapper)
    consecutive, strided = replace(used, positions="consecutive"), replace(used, positions="strided")
    assert layout((3, 2), used, draw=0) == layout((3, 2), consecutive, draw=0)
    assert layout((3,), strided, draw=5) == layout((3,), strided, draw=0)
    assert layout((3,), consecutive, draw=5) == layout((3,), consecutive, draw=0)
