"""What stands under the axis of a benchmark's picture."""

from __future__ import annotations

import pytest

from memfold.bench.plot import short


@pytest.mark.parametrize(
    ("tokens", "label"), [(512, "512"), (8_199, "8K"), (122_885, "120K"), (524_296, "512K"), (1_048_587, "1M")]
)
def test_lengths_are_short_and_in_units_of_1024(tokens: int, label: str) -> None:
    assert short(tokens) == label
