"""Random positions of slots; the other rules are worked out by hand in test_pooled."""

from __future__ import annotations

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

RANDOM = PooledFold(ratio=4, positions="randomised", draw=7)


def blocks(*counts: int) -> list[Block]:
    return [
        Block(number, 0, 0, 4 * count, 0, 0, torch.zeros(count, 8), tuple(range(0, 4 * count, 4)))
        for number, count in enumerate(counts)
    ]


def positions_of(found: list[list[int]], width: int) -> list[int]:
    """Distances as positions: a block begins where the one before it ends."""
    base, places = 0, []
    for own in found:
        places += [base + place for place in own]
        base = places[-1] + width if places else 0
    return places


@pytest.mark.parametrize(("wrapper", "expected"), [
    ("none", [[0, 3], [1, 2]]),  # at 0 3 5 6: the second block begins at 4
    ("slot", [[0, 5], [1, 4]]),  # at 0 5 9 12, three places each: the second block begins at 8
])  # fmt: skip
def test_random_positions_by_hand(monkeypatch: pytest.MonkeyPatch, wrapper: Any, expected: list[list[int]]) -> None:
    class Rigged(Random):
        def random(self) -> float:
            return 1 / 3  # of the way from once to eight times as long: twice

        def sample(self, population: Any, k: int) -> list[int]:  # type: ignore[override]
            assert (len(population), k) == (8, 4)
            return [5, 0, 6, 3]

    monkeypatch.setattr(positions, "Random", Rigged)
    assert list(offsets(blocks(2, 2), replace(RANDOM, wrapper=wrapper), "m")) == expected


@pytest.mark.parametrize("wrapper", ["none", "span", "slot"])
def test_random_positions_are_sorted_apart_and_within_the_stretch(wrapper: Any) -> None:
    width, lengths = 3 if wrapper == "slot" else 1, []
    for draw in range(1, 300):
        settings = replace(RANDOM, wrapper=wrapper, draw=draw)
        found = list(offsets(blocks(5, 0, 4), settings, "m"))
        assert [len(own) for own in found] == [5, 0, 4]
        places = positions_of([own for own in found if own], width)
        assert all(after - before >= width for before, after in pairwise(places))
        assert places[0] >= 0
        lengths.append(places[-1] + width)
    assert min(lengths) <= 9 * width + 2, "consecutive slots, or nearly, are among them"
    assert max(lengths) <= 9 * (STRETCH + width - 1)
    assert max(lengths) > 9 * (STRETCH + width - 1) - 18, "and nearly the longest stretch"


def test_a_draw_is_one_layout_and_another_memory_has_another() -> None:
    one, two = (list(offsets(blocks(9, 9), RANDOM, "m")) for _ in range(2))
    assert one == two
    assert one != list(offsets(blocks(9, 9), RANDOM, "n"))
    assert one != list(offsets(blocks(9, 9), replace(RANDOM, draw=8), "m"))


@pytest.mark.parametrize("wrapper", ["none", "slot"])
def test_in_use_random_positions_are_consecutive(wrapper: Any) -> None:
    used = replace(RANDOM, wrapper=wrapper, draw=0)
    assert list(offsets(blocks(3, 2), used, "m")) == list(
        offsets(blocks(3, 2), replace(used, positions="consecutive"), "m")
    )
    drawn_for_nothing = replace(used, positions="strided", draw=5)
    assert list(offsets(blocks(3), drawn_for_nothing, "m")) == list(
        offsets(blocks(3), replace(drawn_for_nothing, draw=0), "m")
    )
