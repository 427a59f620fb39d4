"""Pooled memory in training: what a model gets, what its folder says, what a batch draws; its costs and layouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from memfold.backbone.model import Backbone
from memfold.core.document import Document
from memfold.core.errors import CheckpointError, ConfigError
from memfold.core.footprint import Footprint, Pass
from memfold.core.types import Block, BlockRef, Call, Memory, Passage, Span, Text
from memfold.systems.pooled.head import HEAD, Head
from memfold.systems.pooled.settings import PooledFold, PooledTrain
from memfold.systems.pooled.system import Pooled
from memfold.training import tokenizer as tokenizer_training

TEXT = "Ada Brisk was born in Velm in 1893. She wrote the Long Ledger in a house on the river Tarn."


def trained(ratio: int = 16, *ratios: int, **settings: Any) -> Pooled:
    return Pooled(PooledFold(ratio=ratio, **settings), train=PooledTrain(ratios=ratios or (ratio,)))


# What a model gets.


def test_a_model_gets_the_head_that_the_settings_ask_for(new_backbone: Callable[..., Backbone]) -> None:
    backbone = new_backbone()
    del backbone.heads[HEAD]
    Pooled().prepare(backbone)
    first = backbone.heads[HEAD]
    assert isinstance(first, torch.nn.Linear)
    Pooled().prepare(backbone)
    assert backbone.heads[HEAD] is first, "what is there already stays"
    trained(pooling="gqa").prepare(backbone)
    assert isinstance(backbone.heads[HEAD], Head)
    with pytest.raises(CheckpointError, match="has a head with pooling gqa and projection linear"):
        Pooled().prepare(backbone)


def test_a_model_gets_the_tokens_around_slots_once(
    new_backbone: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = new_backbone()
    monkeypatch.setattr(tokenizer_training, "PAGES", 4)
    backbone.tokenizer = tokenizer_training.train_tokenizer(500, 0, ())
    assert not set(Pooled.tokens) & backbone.tokenizer.get_vocab().keys()
    before = len(backbone.tokenizer)
    for _ in range(2):
        Pooled().prepare(backbone)
        assert len(backbone.tokenizer) == before + 2
    assert {backbone.token_id(token) for token in Pooled.tokens} == {before, before + 1}


def test_an_impossible_ratio_is_refused_before_a_model_is_touched(new_backbone: Callable[..., Backbone]) -> None:
    backbone = new_backbone()
    del backbone.heads[HEAD]
    with pytest.raises(ConfigError, match=r"window = 64 is not possible; allowed: .* multiple of the ratio 24"):
        trained(16, 16, 24).prepare(backbone)
    assert HEAD not in backbone.heads


def test_the_parameters_that_it_adds(new_backbone: Callable[..., Backbone]) -> None:
    backbone = new_backbone()
    names = {name: weight.numel() for name, weight in backbone.parameters() if name.startswith("heads.")}
    assert Pooled().parameters(backbone.hidden_size) == names == {"heads.pooled.weight": 32 * 32}


# What a model folder says.


def test_a_model_folder_says_all_ratios_in_place_of_one() -> None:
    system = trained(8, 8, 4, 8, wrapper="slot")
    record = system.record({})
    assert record == {
        "groups": "fixed",
        "shortest": 0,
        "longest": 0,
        "window": 64,
        "mask": "bidirectional",
        "pooling": "mean",
        "projection": "linear",
        "wrapper": "slot",
        "positions": "strided",
        "chunk": 4096,
        "start_token": "<MEM_START>",
        "end_token": "<MEM_END>",
        "adapters": False,
        "ratios": [4, 8],
    }
    assert system.record({"ratios": [16, 4], "wrapper": "none"}) == record | {"ratios": [4, 8, 16]}
    assert trained(4, 4).record(record) == Pooled().record(record) | {"ratios": [4, 8]}


@pytest.mark.parametrize(("ratios", "ratio"), [([4, 8], 8), ([4, 8, 16, 32], 16), ([32], 32), ((2, 4), 4)])
def test_a_trained_model_is_used_at_the_default_ratio_else_at_the_highest(ratios: Any, ratio: int) -> None:
    settings = Pooled.trained_settings({"wrapper": "slot", "window": 32, "ratios": ratios})
    assert settings == {"wrapper": "slot", "window": 32, "ratio": ratio}
    assert Pooled.of(settings).fold == PooledFold(ratio=ratio, wrapper="slot", window=32)


def test_a_record_without_ratios_asks_for_none() -> None:
    assert Pooled.trained_settings({}) == {}
    assert Pooled.trained_settings({"wrapper": "none"}) == {"wrapper": "none"}


def test_a_record_makes_the_system_again() -> None:
    system = trained(8, 4, 8, mask="causal", positions="consecutive")
    again = Pooled.of(Pooled.trained_settings(system.record({})))
    assert again.fold == system.fold


def test_the_ratios_that_were_trained() -> None:
    record = trained(8, 4, 8).record({})
    assert Pooled.trained_ratios(record) == (4, 8)
    assert [Pooled().at_ratio(ratio).trained_at(record) for ratio in (4, 8, 16)] == [True, True, False]
    assert Pooled.trained_ratios({}) == ()
    assert Pooled().at_ratio(32).trained_at({}), "nothing is known of a model that says nothing"


def test_another_ratio_is_trained_at_that_ratio_alone() -> None:
    system = Pooled.of({"ratios": [4, 8], "max_gap": 9, "style": "bare"}).at_ratio(32)
    assert (system.ratio, system.train, system.read.style) == (32, PooledTrain(ratios=(32,), max_gap=9), "bare")
    with pytest.raises(ConfigError, match="ratio = 2048 is not possible"):
        Pooled().at_ratio(2048)


def test_unfolding_is_a_setting_of_reading() -> None:
    system = Pooled().unfolding(100)
    assert (system.read.unfold, system.capabilities.rereads_text) == (100, True)
    assert not system.unfolding(0).capabilities.rereads_text


# What a batch draws.


@pytest.mark.parametrize("seed", range(5))
def test_a_batch_draws_ratio_gap_and_layout_in_this_order(seed: int) -> None:
    rng, expected = Random(seed), Random(seed)
    system = Pooled.of({"ratios": [4, 8, 16], "max_gap": 1000, "positions": "randomised", "style": "bare"})
    drawn = system.draw(rng, (1 << 31) + 5)
    ratio, far = expected.choice((4, 8, 16)), expected.random() < 0.5
    gap = round(1000 ** expected.random()) if far else 0
    assert (drawn.ratio, drawn.read.gap, drawn.read.draw) == (ratio, gap, 6)
    assert rng.getstate() == expected.getstate()
    assert (drawn.read.style, drawn.train, drawn.fold.positions) == ("bare", system.train, "randomised")


def test_gaps_of_every_order_of_magnitude_and_none_in_half_of_the_batches() -> None:
    rng, system = Random(1), Pooled(train=PooledTrain(max_gap=1000))
    gaps = [system.draw(rng, None).read.gap for _ in range(3000)]
    sizes = Counter(0 if gap == 0 else len(str(gap)) for gap in gaps)
    assert max(gaps) > 900
    assert max(gaps) <= 1000
    assert abs(sizes[0] - 1500) < 100
    assert all(abs(sizes[digits] - 500) < 100 for digits in (1, 2, 3))
    assert {Pooled().draw(rng, None).read.gap for _ in range(9)} == {0}


def test_slots_are_laid_out_at_random_only_in_training_and_only_where_wanted() -> None:
    randomised = trained(positions="randomised")
    assert [randomised.draw(Random(1), seed).read.draw for seed in (0, 5, (1 << 31) - 1)] == [1, 6, 1 << 31]
    assert randomised.draw(Random(1), None).read.draw == 0, "validation is as use is"
    assert trained(positions="strided").draw(Random(1), 5).read.draw == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_gap_takes_one_more_number_in_batches_that_have_one(seed: int) -> None:
    """Without gaps, and with one ratio, the numbers are those of every other system (test_settings)."""
    near, far = Random(seed), Random(seed)
    Pooled().draw(near, seed)
    drawn = Pooled(train=PooledTrain(max_gap=1000)).draw(far, seed)
    if drawn.read.gap:
        near.random()
    assert near.getstate() == far.getstate()


def test_every_ratio_is_drawn_and_the_lowest_costs_most() -> None:
    system = trained(16, 8, 4, 16)
    assert {system.draw(Random(seed), seed).ratio for seed in range(30)} == {4, 8, 16}
    assert system.costliest().ratio == 4
    positions = [system.changed(ratio=ratio).footprint(512).positions for ratio in (4, 8, 16)]
    assert positions == sorted(positions, reverse=True)


# What a document costs, by hand.


@pytest.mark.parametrize(
    ("settings", "tokens", "footprint"),
    [
        ({"ratio": 4, "window": 16}, 26, Footprint(9, 26, 7, Pass(2, 16, causal=False))),
        ({"ratio": 4, "window": 0, "mask": "causal"}, 26, Footprint(9, 26, 7, Pass(7, 4, causal=True))),
        ({"ratio": 4, "window": 16, "wrapper": "slot"}, 26, Footprint(21, 26, 7, Pass(2, 16, causal=False))),
        ({"ratio": 4, "window": 16, "wrapper": "none"}, 32, Footprint(8, 32, 8, Pass(2, 16, causal=False))),
        ({"ratio": 4, "window": 16}, 26.4, Footprint(26.4 * 9 / 26, 26.4, 7, Pass(2, 16, causal=False))),
        ({}, 0.0, Footprint(0.0, 0.0, 0, Pass(0, 64, causal=False))),
    ],
)
def test_the_footprint_by_hand(settings: dict[str, Any], tokens: float, footprint: Footprint) -> None:
    assert Pooled.of(settings).footprint(tokens) == footprint


@torch.no_grad()
def test_the_footprint_is_that_of_a_fold(backbone: Backbone) -> None:
    system, ids = trained(4, window=16, chunk=32), tuple(backbone.encode(TEXT))
    blocks = list(system.compress([Document("a", tokens=ids)], backbone))
    memory = Memory("m", "pooled", {}, "", ("a",), blocks)
    call = Call("answer", (Text(""), *(BlockRef("m", block.index) for block in blocks), Text("?")))
    footprint = system.footprint(len(ids))
    assert (footprint.encoded, footprint.slots) == (memory.token_count, memory.slot_count)
    assert footprint.positions == system.render(memory, call, backbone).memory_positions
    for layout in system.layouts().values():
        positions = layout.footprint(len(ids)).positions
        assert positions == layout.render(memory, call, backbone).memory_positions


def test_the_layouts_are_the_wrappers_the_default_first() -> None:
    system = trained(8, 4, 8, wrapper="none")
    layouts = system.layouts()
    assert {name: layout.fold.wrapper for name, layout in layouts.items()} == {"span": "span", "slot": "slot"}
    assert next(iter(layouts)) == PooledFold().wrapper
    assert all(layout.settings == system.settings | {"wrapper": name} for name, layout in layouts.items())
    assert all(layout.train == system.train for layout in layouts.values())


def test_encoding_alone_takes_the_forward_passes_of_a_fold(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    hidden = backbone.hidden

    def counted(embeddings: Tensor, *others: Any) -> Tensor:
        shapes.append(tuple(embeddings.shape))
        return hidden(embeddings, *others)

    monkeypatch.setattr(backbone, "hidden", counted)
    system, ids = trained(4, window=16), [7] * 2048
    with torch.no_grad():
        list(system.compress([Document("a", tokens=tuple(ids))], backbone))
    folded, shapes[:] = list(shapes), []
    system.encode_only(ids, backbone)
    assert shapes == folded
    assert len(shapes) == 2


# What stands behind a slot.


def cut(backbone: Backbone, text: str | None = TEXT) -> Memory:
    """Two blocks of one document, of 10 tokens and of the rest; at ratio 4 the first ends in a slot of two tokens."""
    tokens, offsets = backbone.tokenize(TEXT)
    border, rest = offsets[10][0], -(-(len(tokens) - 10) // 4)
    blocks = [
        Block(0, 0, 0, 10, 0, border, torch.zeros(3, 32), text and text[:border]),
        Block(1, 0, 10, len(tokens), border, len(TEXT), torch.zeros(rest, 32), text and text[border:]),
    ]
    return Memory("m", "pooled", {}, "", ("a",), blocks)


def call(*references: int) -> Call:
    return Call("answer", (Text("before"), *(BlockRef("m", index) for index in references), Text("?")))


def test_a_slot_stands_for_the_text_of_its_tokens(backbone: Backbone) -> None:
    memory, system = cut(backbone), trained(4)
    offsets = backbone.tokenize(TEXT)[1]
    groups = [(0, 4), (4, 8), (8, 10), *((start, start + 4) for start in range(10, len(offsets), 4))]
    assert len(groups) == memory.slot_count
    for slot, (first, last) in enumerate(groups):
        expected = Span(offsets[first][0], offsets[min(last, len(offsets)) - 1][1])
        assert system.passage(memory, call(0, 1), slot, backbone) == Passage(0, expected)


def test_slots_are_counted_in_the_order_of_the_call(backbone: Backbone) -> None:
    memory, system = cut(backbone), trained(4)
    second = memory.blocks[1].slot_count
    assert system.passage(memory, call(1, 0), 0, backbone) == system.passage(memory, call(0, 1), 3, backbone)
    assert system.passage(memory, call(1, 0), second, backbone) == system.passage(memory, call(0, 1), 0, backbone)
    assert system.passage(memory, call(1), 0, backbone) == system.passage(memory, call(0, 1), 3, backbone)
    with pytest.raises(IndexError, match="slot 3 is not possible; the call has 3 slots"):
        system.passage(memory, call(0), 3, backbone)


def test_without_text_a_slot_stands_for_its_part_of_the_characters(backbone: Backbone) -> None:
    memory = cut(backbone, None)
    memory.blocks[0] = Block(0, 0, 0, 10, 100, 150, torch.zeros(3, 32))
    spans = [trained(4).passage(memory, call(0), slot, backbone).span for slot in range(3)]
    assert spans == [Span(100, 120), Span(120, 140), Span(140, 150)]


def test_a_passage_names_its_document(backbone: Backbone) -> None:
    memory = cut(backbone)
    memory.sources = ("a", "b")
    memory.blocks[1] = Block(1, 1, 0, 4, 0, len(TEXT), torch.zeros(1, 32), TEXT)
    passage = trained(4).passage(memory, call(0, 1), 3, backbone)
    assert (passage.source, passage.span.start, passage.weight) == (1, 0, 0.0)


def test_the_text_of_a_block_is_tokenised_once(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, texts, tokenize = cut(backbone), [], backbone.tokenize

    def counted(text: str) -> tuple[list[int], list[tuple[int, int]]]:
        texts.append(text)
        return tokenize(text)

    monkeypatch.setattr(backbone, "tokenize", counted)
    for slot in range(memory.slot_count):
        trained(4).passage(memory, call(0, 1), slot, backbone)
    assert texts == [block.text for block in memory.blocks]
