from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from rendered_calls import after_prefix, behind, plain, prefix_of
from torch import Tensor
from transformers.cache_utils import Cache

from memfold.backbone import prefill
from memfold.backbone.decode import DecodingBatch, generate
from memfold.backbone.decoding_row import CIRCLE, LAP, DecodingRow
from memfold.backbone.model import Backbone
from memfold.bench.rollout import decode_again
from memfold.core.system import SLOT, Rendered
from memfold.core.types import Penalised, Reply, SamplingParams

TEXT = "Tavenlor Brisk was born in Oskadim in 1893. The code of the vault is KX-41. "


def with_slots(tokens: list[int], hidden: int, seed: int) -> Rendered:
    """Three slots after the first token, at positions with gaps, then the rest."""
    sequence = [tokens[0], SLOT, SLOT, SLOT, *tokens[1:]]
    positions = [0, 1, 5, 9, *range(12, 11 + len(tokens))]
    slots = torch.randn(3, hidden, generator=torch.Generator().manual_seed(seed))
    return Rendered(sequence, positions, (len(sequence),), slots, memory_positions=3)


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


def decode(
    backbone: Backbone,
    rendered: list[Rendered],
    sampling: list[SamplingParams],
    on_text: Callable[[int, str], None] = lambda number, text: None,
    cancel: Callable[[int], bool] = lambda number: False,
) -> list[Reply]:
    """Like `generate`, with the numbers of rows for whoever listens or cancels (asked before every token)."""
    rows = [
        DecodingRow(row, params, partial(on_text, number))
        for number, (row, params) in enumerate(zip(rendered, sampling, strict=True))
    ]

    def cancel_some() -> None:
        for number, row in enumerate(rows):
            row.cancelled = row.finish is None and cancel(number)

    cancel_some()
    batch = DecodingBatch(backbone, rows)
    while not batch.finished:
        cancel_some()
        batch.step()
    return [row.reply(backbone) for row in rows]


def assert_same(left: Reply, right: Reply) -> None:
    assert (left.tokens, left.text, left.finish) == (right.tokens, right.text, right.finish)
    assert left.logprobs == pytest.approx(right.logprobs, abs=2e-4)


def test_a_batch_of_many_equals_each_alone(any_backbone: Backbone) -> None:
    rows = mixed(any_backbone)
    sampling = [SamplingParams(max_tokens=count) for count in (7, 12, 1, 9, 10, 3, 5)]
    together = generate(any_backbone, rows, sampling)
    alone = [generate(any_backbone, [row], [params])[0] for row, params in zip(rows, sampling, strict=True)]
    for reply, expected in zip(together, alone, strict=True):
        assert_same(reply, expected)
    assert [len(reply.tokens) for reply in together] == [7, 12, 1, 9, 10, 3, 5]
    assert len({reply.tokens[:3] for reply in together}) >= 5, "the replies depend on their calls"
    assert [reply.positions for reply in together] == [0, 0, 3, 3, 0, 0, 0]


def test_equal_calls_are_read_once(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = backbone.encode(TEXT)
    prefix = prefix_of(backbone, tokens[:9])
    rows = [
        with_slots(tokens, backbone.hidden_size, 1),
        plain(tokens[:7]),
        with_slots(tokens, backbone.hidden_size, 2),  # the same tokens over other slots
        with_slots(tokens, backbone.hidden_size, 1),
        plain(tokens[:7]),
        behind(prefix, tokens[9:14]),
        behind(prefix, tokens[9:14]),
        after_prefix(backbone, tokens[:9], tokens[9:14]),  # another prefix, though its numbers are the same
    ]
    sampling = [SamplingParams(max_tokens=6, temperature=1.0, seed=seed) for seed in range(len(rows))]
    alone = [generate(backbone, [row], [params])[0] for row, params in zip(rows, sampling, strict=True)]
    read: list[int] = []
    run = prefill._run_prompts

    def count(backbone: Backbone, prompts: list[Rendered]) -> tuple[Cache, Tensor, Tensor]:
        read.append(len(prompts))
        return run(backbone, prompts)

    monkeypatch.setattr(prefill, "_run_prompts", count)
    for reply, expected in zip(generate(backbone, rows, sampling), alone, strict=True):
        assert_same(reply, expected)
    assert read == [5]
    assert alone[0].tokens != alone[3].tokens, "each is sampled by a seed of its own"


def with_memory(backbone: Backbone, question: list[int], seed: int = 3, start: int = 0) -> Rendered:
    """Forty slots, closed by a token, then a question."""
    slots = torch.randn(40, backbone.hidden_size, generator=torch.Generator().manual_seed(seed))
    sequence = [backbone.end_token, *[SLOT] * 40, backbone.end_token, *question]
    positions = list(range(start, start + len(sequence)))
    return Rendered(sequence, positions, (len(sequence),), slots, memory_positions=40)


def test_a_memory_that_all_rows_begin_with_is_read_once(
    any_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, tokens = any_backbone, any_backbone.encode(TEXT)
    rows = [with_memory(backbone, tokens[start : start + length]) for start, length in ((0, 9), (4, 1), (2, 12))]
    sampling = [SamplingParams(max_tokens=6)] * 3
    alone = [generate(backbone, [row], [params])[0] for row, params in zip(rows, sampling, strict=True)]
    read: list[tuple[int, ...]] = []
    inputs = backbone.inputs

    def spy(tokens: Tensor, slots: list[Tensor]) -> Tensor:
        read.append(tuple(tokens.shape))
        return inputs(tokens, slots)

    monkeypatch.setattr(backbone, "inputs", spy)
    together = generate(backbone, rows, sampling)
    assert read == [(1, 42), (3, 12)]
    for reply, expected in zip(together, alone, strict=True):
        assert reply.tokens == expected.tokens
        assert reply.logprobs == pytest.approx(expected.logprobs, abs=1e-4)


@pytest.mark.parametrize("change", [{"seed": 4}, {"start": 1}])
def test_memories_that_differ_are_read_each(backbone: Backbone, change: dict[str, int]) -> None:
    tokens = backbone.encode(TEXT)
    rows = [with_memory(backbone, tokens[:5]), with_memory(backbone, tokens[:5], **change)]
    assert prefill._shared_beginning(rows) == 0
    alone = [generate(backbone, [row], [SamplingParams(max_tokens=4)])[0].tokens for row in rows]
    assert [reply.tokens for reply in generate(backbone, rows, [SamplingParams(max_tokens=4)] * 2)] == alone


def test_a_row_that_is_the_beginning_of_another_keeps_its_last_position(backbone: Backbone) -> None:
    tokens = backbone.encode(TEXT * 2)[:45]
    rows = [plain(tokens), plain(tokens[:40])]
    assert prefill._shared_beginning(rows) == 39
    alone = [generate(backbone, [row], [SamplingParams(max_tokens=4)])[0].tokens for row in rows]
    assert [reply.tokens for reply in generate(backbone, rows, [SamplingParams(max_tokens=4)] * 2)] == alone


def test_the_order_of_a_batch_does_not_matter(backbone: Backbone) -> None:
    rows = mixed(backbone)
    sampling = [SamplingParams(max_tokens=4 + number) for number in range(len(rows))]
    forward, backward = generate(backbone, rows, sampling), generate(backbone, rows[::-1], sampling[::-1])
    for reply, expected in zip(forward, backward[::-1], strict=True):
        assert_same(reply, expected)


def test_a_prefix_of_keys_and_values_equals_its_tokens(any_backbone: Backbone) -> None:
    tokens = any_backbone.encode(TEXT)
    cuts = (1, 8, 17)
    rows = [after_prefix(any_backbone, tokens[:cut], tokens[cut:]) for cut in cuts]
    sampling = [SamplingParams(max_tokens=8)] * 3
    (whole,) = generate(any_backbone, [plain(tokens)], sampling[:1])
    for row in [*generate(any_backbone, rows, sampling), *generate(any_backbone, rows[1:2], sampling[:1])]:
        assert_same(row, whole)


def test_slots_that_are_token_embeddings_equal_the_tokens(any_backbone: Backbone) -> None:
    tokens = any_backbone.encode(TEXT)
    as_slots = replace(plain([*tokens[:4], *[SLOT] * 6, *tokens[10:]]), slots=any_backbone.embed(tokens[4:10]).detach())
    sampling = [SamplingParams(max_tokens=8)]
    assert_same(generate(any_backbone, [as_slots], sampling)[0], generate(any_backbone, [plain(tokens)], sampling)[0])


@pytest.mark.parametrize("length", [3, 25])
def test_plain_tokens_give_what_transformers_generates(any_backbone: Backbone, length: int) -> None:
    tokens = any_backbone.encode(TEXT * 2)[:length]
    (reply,) = generate(any_backbone, [plain(tokens)], [SamplingParams(max_tokens=20)])
    output = any_backbone.model.generate(torch.tensor([tokens]), max_new_tokens=20, do_sample=False)  # type: ignore[operator]
    assert list(reply.tokens) == output[0, length:].tolist()


def test_the_end_token_ends_a_reply(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = backbone.encode(TEXT)
    rows, sampling = [plain(tokens), plain(tokens[:7])], [SamplingParams(max_tokens=12)] * 2
    before = generate(backbone, rows, sampling)[0]
    end = before.tokens[5]
    first = before.tokens.index(end)
    monkeypatch.setattr(Backbone, "end_token", property(lambda self: end))
    stopped, _ = generate(backbone, rows, sampling)
    assert (stopped.tokens, stopped.finish, before.finish) == (before.tokens[: first + 1], "stop", "length")
    assert len(stopped.logprobs) == first + 1


def test_a_real_end_token_is_not_part_of_the_text(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [*backbone.encode("Velm."), backbone.end_token]
    force(monkeypatch, wanted)
    pieces: list[str] = []
    (reply,) = decode(backbone, [plain([5])], [SamplingParams(max_tokens=50)], lambda row, text: pieces.append(text))
    assert (reply.tokens, reply.text, reply.finish) == (tuple(wanted), "Velm.", "stop")
    assert "".join(pieces) == "Velm."


@pytest.mark.parametrize(
    ("tokens", "repeats"),
    [
        ([7] * CIRCLE, True),
        ([*range(LAP)] * 3, True),
        ([*range(100, 140), *[1, 2, 3] * 100][: 4 * LAP], True),
        ([7] * (CIRCLE - 1), False),  # too short
        ([*range(LAP + 1)] * 4, False),  # too long a lap
        ([*([1, 2, 3] * LAP)[:-1], 9], False),
    ],
)
def test_a_circle_by_hand(tokens: list[int], repeats: bool) -> None:
    row = DecodingRow(plain([5]), SamplingParams(max_tokens=400), tokens=tokens)
    assert row.repeats is repeats
    assert not replace(row, sampling=replace(SAMPLED, max_tokens=400)).repeats, "a sampled reply may leave it"


def test_a_greedy_reply_that_goes_round_in_a_circle_ends(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others of its batch go on."""
    lap = backbone.encode("The mill of Tor. ")
    force(monkeypatch, lap * 100)
    rows, limits = [plain([5]), plain([5, 6])], [SamplingParams(max_tokens=400), SamplingParams(max_tokens=100)]
    stopped, other = decode(backbone, rows, limits)
    assert (stopped.finish, len(stopped.tokens)) == ("repetition", CIRCLE)
    assert (other.finish, len(other.tokens)) == ("length", 100)


SAMPLED = SamplingParams(max_tokens=10, temperature=1.0)


def test_a_seed_gives_the_same_reply_in_any_batch(any_backbone: Backbone) -> None:
    rows = mixed(any_backbone)
    sampling = [replace(SAMPLED, seed=number, temperature=0.5 + number / 4) for number in range(len(rows))]
    together = generate(any_backbone, rows, sampling)
    for row, params, reply in zip(rows, sampling, together, strict=True):
        assert_same(generate(any_backbone, [row], [params])[0], reply)
    same_call = generate(any_backbone, [rows[0]] * 8, [replace(SAMPLED, seed=seed) for seed in range(8)])
    assert len({reply.tokens for reply in same_call}) > 4


def first_tokens(backbone: Backbone, params: SamplingParams, count: int = 200) -> set[int]:
    row = plain(backbone.encode(TEXT))
    replies = generate(backbone, [row] * count, [replace(params, max_tokens=1, seed=seed) for seed in range(count)])
    return {reply.tokens[0] for reply in replies}


def flat(backbone: Backbone) -> Tensor:
    """The probabilities of the first token at temperature 2, best first."""
    with torch.no_grad():
        hidden = backbone.hidden(backbone.embed(backbone.encode(TEXT))[None])
        return (backbone.logits(hidden)[0, -1] / 2).softmax(-1)


def test_top_k_keeps_the_best_tokens(backbone: Backbone) -> None:
    best = flat(backbone).topk(4).indices.tolist()
    drawn = first_tokens(backbone, SamplingParams(temperature=2.0, top_k=4))
    assert drawn <= set(best)
    assert len(drawn) > 1
    assert first_tokens(backbone, SamplingParams(temperature=2.0, top_k=1), 20) == {best[0]}
    assert len(first_tokens(backbone, SamplingParams(temperature=2.0))) > 4


def test_top_p_keeps_the_smallest_set_that_reaches_it(backbone: Backbone) -> None:
    ordered, order = flat(backbone).sort(descending=True)
    mass = float(ordered[:3].sum()) - 1e-4  # reached by the third token and not by the second
    kept = set(order[:3].tolist())
    drawn = first_tokens(backbone, SamplingParams(temperature=2.0, top_p=mass))
    assert drawn <= kept
    assert len(drawn) > 1
    assert first_tokens(backbone, SamplingParams(temperature=2.0, top_p=1e-6), 20) == {int(order[0])}


def test_a_repetition_penalty_by_hand(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """10 / 1.05 is less than 9.6, and 9.6 / 1.05 less than that; -1 x 1.05 is less than -1.02."""

    def fixed(values: dict[int, float]) -> None:
        def logits(backbone: Backbone, embeddings: Tensor, *_: object) -> Tensor:
            table = torch.full((len(embeddings), int(backbone.model.config.vocab_size)), -5.0)
            for token, value in values.items():
                table[:, token] = value
            return table

        monkeypatch.setattr(Backbone, "next_logits", logits)

    def reply(prompt: list[int], penalty: float = 1.0, penalised: Penalised = "all") -> tuple[int, ...]:
        params = SamplingParams(max_tokens=2, repetition_penalty=penalty, penalised=penalised)
        return generate(backbone, [plain(prompt)], [params])[0].tokens

    fixed({20: 10.0, 21: 9.6})
    assert reply([20, 22], penalty=1.05) == (21, 20)
    assert reply([20, 22]) == (20, 20)
    assert reply([20, 22], 1.05, "reply") == (20, 21)
    fixed({20: -1.0, 21: -1.02})
    assert reply([20, 22], penalty=1.05)[0] == 21
    assert reply([20, 22], penalty=1.01)[0] == 20


def test_known_replies_are_fed_token_by_token(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [plain(backbone.encode(text)) for text in (TEXT, "Ada")]
    sampling = [SamplingParams(max_tokens=5), SamplingParams(max_tokens=3)]
    forward, seen = Backbone.next_logits, list[tuple[Tensor, Tensor]]()

    def watched(backbone: Backbone, embeddings: Tensor, positions: Tensor, cache: Cache, mask: Tensor) -> Tensor:
        seen.append((embeddings, positions))
        return forward(backbone, embeddings, positions, cache, mask)

    monkeypatch.setattr(Backbone, "next_logits", watched)
    replies = generate(backbone, rows, sampling)
    made, seen = seen, []
    decode_again(backbone, rows, [reply.tokens for reply in replies])
    assert len(seen) == len(made) == 5
    for again, first in zip(seen, made, strict=True):
        assert all(torch.equal(left, right) for left, right in zip(again, first, strict=True))


def force(monkeypatch: pytest.MonkeyPatch, wanted: list[int]) -> None:
    """Make every row write the wanted tokens, one after another."""
    following = iter(wanted)

    def scripted(backbone: Backbone, embeddings: Tensor, *_: object) -> Tensor:
        logits = torch.zeros(len(embeddings), int(backbone.model.config.vocab_size))
        logits[:, next(following)] = 30.0
        return logits

    monkeypatch.setattr(Backbone, "next_logits", scripted)


def test_streamed_pieces_are_the_reply_and_never_half_a_character(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "né 世界 😀 in Velm"
    wanted = backbone.encode(text)
    assert len(wanted) > len(text.split()) + 8, "characters of several tokens"
    force(monkeypatch, wanted)
    pieces: list[str] = []
    sampling = [SamplingParams(max_tokens=len(wanted))]
    (reply,) = decode(backbone, [plain([5])], sampling, lambda row, piece: pieces.append(piece))
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

    sampling = [SamplingParams(max_tokens=8 + number, temperature=2.0, seed=number) for number in range(len(rows))]
    replies = decode(backbone, rows, sampling, listen, cancel)
    assert [heard.get(row, "") for row in range(len(rows))] == [reply.text for reply in replies]
    assert any(reply.text.endswith("\N{REPLACEMENT CHARACTER}") for reply in replies), "some end in half a character"


def test_a_cancelled_row_ends_and_leaves_the_others_alone(backbone: Backbone) -> None:
    rows, sampling = mixed(backbone), [SamplingParams(max_tokens=9)] * 7
    asked = [0] * 7

    def cancel(row: int) -> bool:
        asked[row] += 1
        return row in (1, 4) and asked[row] > row

    replies, undisturbed = decode(backbone, rows, sampling, cancel=cancel), generate(backbone, rows, sampling)
    for row, (reply, whole) in enumerate(zip(replies, undisturbed, strict=True)):
        if row in (1, 4):
            assert (reply.finish, reply.tokens) == ("cancelled", whole.tokens[:row])
            assert len(reply.logprobs) == row
        else:
            assert_same(reply, whole)
