from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from memfold.backbone import generation
from memfold.backbone.decode import decode_again, generate
from memfold.backbone.model import Backbone
from memfold.core.system import SLOT, Rendered
from memfold.core.types import Reply, SamplingParams

TEXT = "Tavenlor Brisk was born in Oskadim in 1893. The code of the vault is KX-41. "


def plain(tokens: list[int]) -> Rendered:
    return Rendered(tokens, list(range(len(tokens))), (len(tokens),))


def with_slots(tokens: list[int], hidden: int, seed: int) -> Rendered:
    """Three slots after the first token, at positions with gaps, then the rest."""
    places = [tokens[0], SLOT, SLOT, SLOT, *tokens[1:]]
    positions = [0, 1, 5, 9, *range(12, 11 + len(tokens))]
    slots = torch.randn(3, hidden, generator=torch.Generator().manual_seed(seed))
    return Rendered(places, positions, (len(places),), slots, memory_positions=3)


@torch.no_grad()
def prefix(backbone: Backbone, tokens: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Each layer's keys and values over some tokens."""
    cache: Any = DynamicCache()
    backbone.model.base_model(torch.tensor([tokens]), past_prefix=cache, use_cache=True)
    return [(layer.keys[0], layer.values[0]) for layer in cache.layers]


def after_prefix(backbone: Backbone, prefix: list[int], rest: list[int]) -> Rendered:
    positions = list(range(len(prefix), len(prefix) + len(rest)))
    return Rendered(rest, positions, (len(rest),), prefix=prefix(backbone, prefix))


def mixed(backbone: Backbone) -> list[Rendered]:
    """Calls of all shapes: text, slots, key/value prefixes, of different lengths."""
    tokens = backbone.encode(TEXT * 2)
    return [
        plain(tokens[:20]),
        plain(tokens[5:8]),
        with_slots(tokens[:6], backbone.hidden_size, 1),
        with_slots(tokens[10:30], backbone.hidden_size, 2),
        after_prefix(backbone, tokens[:9], tokens[9:14]),
        after_prefix(backbone, tokens[:31], tokens[31:32]),
        plain(tokens),
    ]


def assert_same(left: Reply, right: Reply) -> None:
    assert (left.tokens, left.text, left.finish) == (right.tokens, right.text, right.finish)
    assert left.logprobs == pytest.approx(right.logprobs, abs=2e-4)


def test_a_batch_of_many_equals_each_alone(any_backbone: Backbone) -> None:
    rows = mixed(any_backbone)
    limits = [SamplingParams(max_tokens=count) for count in (7, 12, 1, 9, 10, 3, 5)]
    together = generate(any_backbone, rows, limits)
    alone = [generate(any_backbone, [row], [limit])[0] for row, limit in zip(rows, limits, strict=True)]
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other)
    assert [len(reply.tokens) for reply in together] == [7, 12, 1, 9, 10, 3, 5]
    assert len({reply.tokens[:3] for reply in together}) >= 5, "the replies depend on their calls"
    assert [reply.positions for reply in together] == [0, 0, 3, 3, 0, 0, 0]


def test_equal_calls_are_read_once(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = backbone.encode(TEXT)
    rows = [
        with_slots(tokens, backbone.hidden_size, 1),
        plain(tokens[:7]),
        with_slots(tokens, backbone.hidden_size, 2),  # the same tokens over other slots
        with_slots(tokens, backbone.hidden_size, 1),
        plain(tokens[:7]),
        after_prefix(backbone, tokens[:9], tokens[9:14]),
        after_prefix(backbone, tokens[:9], tokens[9:14]),
    ]
    limits = [SamplingParams(max_tokens=6, temperature=1.0, seed=seed) for seed in range(len(rows))]
    alone = [generate(backbone, [row], [limit])[0] for row, limit in zip(rows, limits, strict=True)]
    read: list[int] = []
    run = generation._run_prompts
    monkeypatch.setattr(generation, "_run_prompts", lambda own, some: read.append(len(some)) or run(own, some))
    for one, other in zip(generate(backbone, rows, limits), alone, strict=True):
        assert_same(one, other)
    assert read == [5]
    assert alone[0].tokens != alone[3].tokens, "each is sampled by a seed of its own"


def with_memory(backbone: Backbone, question: list[int], seed: int = 3, start: int = 0) -> Rendered:
    """Forty slots, closed by a token, then a question."""
    slots = torch.randn(40, backbone.hidden_size, generator=torch.Generator().manual_seed(seed))
    places = [backbone.end_token, *[SLOT] * 40, backbone.end_token, *question]
    return Rendered(places, list(range(start, start + len(places))), (len(places),), slots, memory_positions=40)


def test_a_memory_that_all_rows_begin_with_is_read_once(
    any_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, tokens = any_backbone, any_backbone.encode(TEXT)
    rows = [with_memory(backbone, tokens[start : start + length]) for start, length in ((0, 9), (4, 1), (2, 12))]
    limits = [SamplingParams(max_tokens=6)] * 3
    alone = [generate(backbone, [row], [limit])[0] for row, limit in zip(rows, limits, strict=True)]
    read: list[tuple[int, ...]] = []
    embed_rows = backbone.embed_rows

    def spy(places: Tensor, slots: list[Tensor]) -> Tensor:
        read.append(tuple(places.shape))
        return embed_rows(places, slots)

    monkeypatch.setattr(backbone, "embed_rows", spy)
    together = generate(backbone, rows, limits)
    assert read == [(1, 42), (3, 12)]
    for one, other in zip(together, alone, strict=True):
        assert one.tokens == other.tokens
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.parametrize("change", [{"seed": 4}, {"start": 1}])
def test_memories_that_differ_are_read_each(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, change: dict[str, int]
) -> None:
    tokens = backbone.encode(TEXT)
    rows = [with_memory(backbone, tokens[:5]), with_memory(backbone, tokens[:5], **change)]
    assert generation._shared_beginning(rows) == 0
    alone = [generate(backbone, [row], [SamplingParams(max_tokens=4)])[0].tokens for row in rows]
    assert [reply.tokens for reply in generate(backbone, rows, [SamplingParams(max_tokens=4)] * 2)] == alone


def test_a_row_that_is_the_beginning_of_another_keeps_its_last_place(backbone: Backbone) -> None:
    tokens = backbone.encode(TEXT * 2)[:45]
    rows = [plain(tokens), plain(tokens[:40])]
    assert generation._shared_beginning(rows) == 39
    alone = [generate(backbone, [row], [SamplingParams(max_tokens=4)])[0].tokens for row in rows]
    assert [reply.tokens for reply in generate(backbone, rows, [SamplingParams(max_tokens=4)] * 2)] == alone


def test_the_order_of_a_batch_does_not_matter(backbone: Backbone) -> None:
    rows = mixed(backbone)
    limits = [SamplingParams(max_tokens=4 + number) for number in range(len(rows))]
    forward, backward = generate(backbone, rows, limits), generate(backbone, rows[::-1], limits[::-1])
    for one, other in zip(forward, backward[::-1], strict=True):
        assert_same(one, other)


def test_a_prefix_of_keys_and_values_equals_its_tokens(any_backbone: Backbone) -> None:
    tokens = any_backbone.encode(TEXT)
    cuts = (1, 8, 17)
    rows = [after_prefix(any_backbone, tokens[:cut], tokens[cut:]) for cut in cuts]
    limits = [SamplingParams(max_tokens=8)] * 3
    (whole,) = generate(any_backbone, [plain(tokens)], limits[:1])
    for row in [*generate(any_backbone, rows, limits), *generate(any_backbone, rows[1:2], limits[:1])]:
        assert_same(row, whole)


def test_slots_that_are_token_embeddings_equal_the_tokens(any_backbone: Backbone) -> None:
    tokens = any_backbone.encode(TEXT)
    as_slots = replace(plain([*tokens[:4], *[SLOT] * 6, *tokens[10:]]), slots=any_backbone.embed(tokens[4:10]).detach())
    limits = [SamplingParams(max_tokens=8)]
    assert_same(generate(any_backbone, [as_slots], limits)[0], generate(any_backbone, [plain(tokens)], limits)[0])


@pytest.mark.parametrize("length", [3, 25])
def test_plain_tokens_give_what_transformers_generates(any_backbone: Backbone, length: int) -> None:
    tokens = any_backbone.encode(TEXT * 2)[:length]
    (reply,) = generate(any_backbone, [plain(tokens)], [SamplingParams(max_tokens=20)])
    output = any_backbone.model.generate(torch.tensor([tokens]), max_new_tokens=20, do_sample=False)  # type: ignore[operator]
    assert list(reply.tokens) == output[0, length:].tolist()


def test_the_end_token_ends_a_reply(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = backbone.encode(TEXT)
    rows, limits = [plain(tokens), plain(tokens[:7])], [SamplingParams(max_tokens=12)] * 2
    before = generate(backbone, rows, limits)[0]
    end = before.tokens[5]
    first = before.tokens.index(end)
    monkeypatch.setattr(Backbone, "end_token", property(lambda self: end))
    stopped, _ = generate(backbone, rows, limits)
    assert (stopped.tokens, stopped.finish, before.finish) == (before.tokens[: first + 1], "stop", "length")
    assert len(stopped.logprobs) == first + 1


def test_a_real_end_token_is_not_part_of_the_text(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [*backbone.encode("Velm."), backbone.end_token]
    force(monkeypatch, wanted)
    pieces: list[str] = []
    (reply,) = generate(backbone, [plain([5])], [SamplingParams(max_tokens=50)], lambda row, text: pieces.append(text))
    assert (reply.tokens, reply.text, reply.finish) == (tuple(wanted), "Velm.", "stop")
    assert "".join(pieces) == "Velm."


SAMPLED = SamplingParams(max_tokens=10, temperature=1.0)


def test_a_seed_gives_the_same_reply_in_any_batch(any_backbone: Backbone) -> None:
    rows = mixed(any_backbone)
    limits = [replace(SAMPLED, seed=number, temperature=0.5 + number / 4) for number in range(len(rows))]
    together = generate(any_backbone, rows, limits)
    for row, limit, reply in zip(rows, limits, together, strict=True):
        assert_same(generate(any_backbone, [row], [limit])[0], reply)
    same_call = generate(any_backbone, [rows[0]] * 8, [replace(SAMPLED, seed=seed) for seed in range(8)])
    assert len({reply.tokens for reply in same_call}) > 4


def first_tokens(backbone: Backbone, limits: SamplingParams, count: int = 200) -> set[int]:
    row = plain(backbone.encode(TEXT))
    replies = generate(backbone, [row] * count, [replace(limits, max_tokens=1, seed=seed) for seed in range(count)])
    return {reply.tokens[0] for reply in replies}


def flat(backbone: Backbone) -> Tensor:
    """The probabilities of the first token at temperature 2, best first."""
    with torch.no_grad():
        hidden = backbone.hidden(backbone.embed(backbone.encode(TEXT))[None])
        return (backbone.logits(hidden)[0, -1] / 2).softmax(-1)


def test_top_k_keeps_the_best_tokens(backbone: Backbone) -> None:
    best = flat(backbone).topk(4).indices.tolist()
    found = first_tokens(backbone, SamplingParams(temperature=2.0, top_k=4))
    assert found <= set(best)
    assert len(found) > 1
    assert first_tokens(backbone, SamplingParams(temperature=2.0, top_k=1), 20) == {best[0]}
    assert len(first_tokens(backbone, SamplingParams(temperature=2.0))) > 4


def test_top_p_keeps_the_smallest_set_that_reaches_it(backbone: Backbone) -> None:
    ordered, order = flat(backbone).sort(descending=True)
    share = float(ordered[:3].sum()) - 1e-4  # reached by the third token and not by the second
    kept = set(order[:3].tolist())
    found = first_tokens(backbone, SamplingParams(temperature=2.0, top_p=share))
    assert found <= kept
    assert len(found) > 1
    assert first_tokens(backbone, SamplingParams(temperature=2.0, top_p=1e-6), 20) == {int(order[0])}


def test_a_repetition_penalty_by_hand(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """10 / 1.05 is less than 9.6, and 9.6 / 1.05 less than that; -1 x 1.05 is less than -1.02."""

    def fixed(values: dict[int, float]) -> None:
        def logits(backbone: Backbone, embeddings: Tensor, *_: object) -> Tensor:
            table = torch.full((len(embeddings), int(backbone.model.config.vocab_size)), -5.0)
            for token, value in values.items():
                table[:, token] = value
            return table

        monkeypatch.setattr(generation, "_logits", logits)

    def said(prompt: list[int], **limits: float) -> tuple[int, ...]:
        return generate(backbone, [plain(prompt)], [SamplingParams(max_tokens=2, **limits)])[0].tokens  # type: ignore[arg-type]

    fixed({20: 10.0, 21: 9.6})
    assert said([20, 22], repetition_penalty=1.05) == (21, 20)
    assert said([20, 22]) == (20, 20)
    fixed({20: -1.0, 21: -1.02})
    assert said([20, 22], repetition_penalty=1.05)[0] == 21
    assert said([20, 22], repetition_penalty=1.01)[0] == 20


def test_known_replies_are_fed_place_by_place(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, limits = (
        [plain(backbone.encode(text)) for text in (TEXT, "Ada")],
        [SamplingParams(max_tokens=5), SamplingParams(max_tokens=3)],
    )
    forward, seen = generation._logits, list[tuple[Tensor, Tensor]]()

    def watched(backbone: Backbone, embeddings: Tensor, positions: Tensor, *more: Any) -> Tensor:
        seen.append((embeddings, positions))
        return forward(backbone, embeddings, positions, *more)

    monkeypatch.setattr(generation, "_logits", watched)
    replies = generate(backbone, rows, limits)
    made, seen = seen, []
    decode_again(backbone, rows, [reply.tokens for reply in replies])
    assert len(seen) == len(made) == 5
    for one, other in zip(seen, made, strict=True):
        assert all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


def force(monkeypatch: pytest.MonkeyPatch, wanted: list[int]) -> None:
    """Make every row write the wanted tokens, one after another."""
    following = iter(wanted)

    def scripted(backbone: Backbone, embeddings: Tensor, *_: object) -> Tensor:
        logits = torch.zeros(len(embeddings), int(backbone.model.config.vocab_size))
        logits[:, next(following)] = 30.0
        return logits

    monkeypatch.setattr(generation, "_logits", scripted)


def test_streamed_pieces_are_the_reply_and_never_half_a_character(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "né 世界 😀 in Velm"
    wanted = backbone.encode(text)
    assert len(wanted) > len(text.split()) + 8, "characters of several tokens"
    force(monkeypatch, wanted)
    pieces: list[str] = []
    (reply,) = generate(
        backbone, [plain([5])], [SamplingParams(max_tokens=len(wanted))], lambda row, piece: pieces.append(piece)
    )
    assert "".join(pieces) == reply.text == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert len(pieces) > 8


@pytest.mark.parametrize("cancelled_after", [None, 6])
def test_streamed_pieces_are_the_reply_whatever_is_written(backbone: Backbone, cancelled_after: int | None) -> None:
    rows, heard, seen = mixed(backbone) * 3, dict[int, str](), dict[int, int]()

    def listen(row: int, piece: str) -> None:
        heard[row] = heard.get(row, "") + piece

    def cancel(row: int) -> bool:
        seen[row] = seen.get(row, 0) + 1
        return seen[row] - 1 == cancelled_after

    limits = [SamplingParams(max_tokens=8 + number, temperature=2.0, seed=number) for number in range(len(rows))]
    replies = generate(backbone, rows, limits, listen, cancel)
    assert [heard.get(row, "") for row in range(len(rows))] == [reply.text for reply in replies]
    assert any(reply.text.endswith("\N{REPLACEMENT CHARACTER}") for reply in replies), "some end in half a character"


def test_a_cancelled_row_ends_and_leaves_the_others_alone(backbone: Backbone) -> None:
    rows, limits = mixed(backbone), [SamplingParams(max_tokens=9)] * 7
    asked = [0] * 7

    def cancel(row: int) -> bool:
        asked[row] += 1
        return row in (1, 4) and asked[row] > row

    replies, undisturbed = generate(backbone, rows, limits, cancel=cancel), generate(backbone, rows, limits)
    for row, (reply, whole) in enumerate(zip(replies, undisturbed, strict=True)):
        if row in (1, 4):
            assert (reply.finish, reply.tokens) == ("cancelled", whole.tokens[:row])
            assert len(reply.logprobs) == row
        else:
            assert_same(reply, whole)
