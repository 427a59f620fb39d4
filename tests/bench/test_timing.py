from __future__ import annotations

import torch

from memfold.backbone.model import Backbone
from memfold.bench.operations import encoding, prefill
from memfold.bench.timing import PeakMemory, ratio, rounds
from memfold.systems.full.system import Full
from memfold.systems.pooled.system import Pooled


def linear(backbone: Backbone) -> float:
    """Operations of all matrices of the blocks for one position, counted by hand."""
    config = backbone.model.config
    d, width = config.hidden_size, config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    block = 2 * d * width + 2 * d * keys + 3 * d * config.intermediate_size
    return float(2 * config.num_hidden_layers * block)


def test_rounds_alternate_and_leave_the_warmups_out(backbone: Backbone) -> None:
    ran: list[str] = []
    seconds = rounds({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, backbone, warmups=1, runs=2)
    assert ran == ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_a_ratio_is_the_median_of_rounds() -> None:
    assert ratio([2.0, 30.0, 3.0], [1.0, 1.0, 1.0]) == 3.0
    assert ratio([1.0, 9.0], [2.0, 3.0]) == 1.75


def test_the_peak_of_an_action_is_told_and_begins_anew(backbone: Backbone) -> None:
    peak = PeakMemory(backbone)
    large = peak.of(lambda: torch.ones(1 << 24))
    small = peak.of(lambda: torch.ones(1 << 10))
    if large is None or small is None:  # a system that cannot tell
        return
    assert 60e6 < large < 120e6
    assert small < large - 40e6


def test_operations_by_hand(backbone: Backbone) -> None:
    config = backbone.model.config
    d, layers, width = config.hidden_size, config.num_hidden_layers, config.num_attention_heads * config.head_dim
    assert prefill(backbone, 3) == 3 * linear(backbone) + layers * 4 * width * 6 + 2 * d * config.vocab_size


def test_operations_of_folding_by_hand(backbone: Backbone) -> None:
    def folding(window: int, mask: str = "causal") -> float:
        system = Pooled.of({"ratio": 4, "window": window, "mask": mask})
        return encoding(backbone, system.footprint(10))

    config = backbone.model.config
    projections = 3 * 2 * config.hidden_size**2
    pair = config.num_hidden_layers * 4 * config.num_attention_heads * config.head_dim
    encoded = 10 * linear(backbone)
    assert folding(0) == encoded + 3 * pair * 10 + projections
    assert folding(8) == encoded + 2 * pair * 36 + projections
    assert folding(8, "bidirectional") == encoded + 2 * pair * 64 + projections
    assert folding(3) == folding(0)
    assert encoding(backbone, Full().footprint(10)) == 0, "text is not encoded"
