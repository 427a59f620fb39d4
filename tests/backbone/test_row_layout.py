"""How rows are laid out, and that rows behind prefixes are what their sequences are without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from gradients import assert_equal_gradients, gradients, weighted
from rendered_calls import behind, plain, prefix_from, prefix_of
from torch import Tensor

from memfold.backbone.decode import generate
from memfold.backbone.model import Backbone
from memfold.backbone.prefill import last_states
from memfold.backbone.rows import Row, RowBatch, pack, pad, prefix_layers, prefix_mask
from memfold.backbone.score import score_rows
from memfold.core.errors import CallError
from memfold.core.system import SLOT, Prefix, Rendered
from memfold.core.types import SamplingParams, Text

CPU = torch.device("cpu")
TEXT = "Tavenlor Brisk was born in Oskadim in 1893. The code of the vault is KX-41. "


# The layout.


def row(first: int, length: int, last: int = 0, prefix: Prefix | None = None) -> Row:
    """`length` tokens counted from `first`, of which the last (or `last` in its stead) is the target."""
    tokens = list(range(first, first + length - 1))
    rendered = Rendered(tokens, list(range(length - 1)), (length - 1,), prefix=prefix)
    return Row(rendered, (Text(tokens=tuple(tokens)),), (last or first + length - 1,))


def mask_of(batch: RowBatch) -> Tensor:
    """The mask [b, t, p + t] of a model whose layers are causal and nothing else."""
    visibility = batch.visibility()
    rows, length, width = visibility.allowed.shape
    row, query, key = torch.meshgrid(
        torch.arange(rows), torch.arange(width - length, width), torch.arange(width), indexing="ij"
    )
    return visibility.restrict(lambda row, head, query, key: key <= query)(row, torch.zeros_like(row), query, key)


def read_by_each(mask: Tensor) -> list[list[int]]:
    """The columns that each row of a mask [t, p + t] may read."""
    return [positions.nonzero()[:, 0].tolist() for positions in mask]


def test_rows_are_filled_in_order_and_never_over() -> None:
    packed = pack([[row(10, 3)], [row(20, 4)], [row(30, 2), row(30, 2, 39)], [row(40, 5)]], CPU, 8)
    assert packed.tokens.tolist() == [[10, 11, 12, 20, 21, 22, 23, 0], [30, 31, 39, 40, 41, 42, 43, 44]]
    assert packed.positions.tolist() == [[0, 1, 2, 0, 1, 2, 3, 0], [0, 1, 1, 0, 1, 2, 3, 4]]
    mask = mask_of(packed)
    assert read_by_each(mask[0]) == [[0], [0, 1], [0, 1, 2], [3], [3, 4], [3, 4, 5], [3, 4, 5, 6], [7]]
    assert read_by_each(mask[1])[:4] == [[0], [0, 1], [0, 2], [3]]
    assert packed.targets.tolist() == [[0, 1, 12], [0, 5, 23], [1, 0, 31], [1, 0, 39], [1, 6, 44]]
    assert packed.ends.tolist() == [[0, 2], [0, 6], [1, 1], [1, 2], [1, 7]]
    assert packed.prefixes == (None, None)


def test_a_reply_after_nothing_is_refused() -> None:
    with pytest.raises(CallError, match="policy: a reply needs at least one token before it"):
        pack([[Row(Rendered([], [], ()), (), (1, 2))]], CPU)


def numbered(length: int, first: float = 1.0) -> Prefix:
    """Keys that count from `first`, their negatives as values: one layer, one head, one number each."""
    keys = torch.arange(first, first + length)[None, :, None]
    return Prefix(((keys, -keys),))


def test_prefixes_are_padded_on_the_left_and_padding_is_never_read() -> None:
    long, short = numbered(3), numbered(1, first=7.0)
    packed = pack([[row(10, 3, prefix=long)], [row(20, 2)], [row(30, 2, prefix=short)]], CPU)
    assert packed.prefixes == (long, None, short)
    ((keys, values),) = prefix_layers(packed.prefixes)
    assert keys[:, 0, :, 0].tolist() == [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [0.0, 0.0, 7.0]]
    assert torch.equal(values, -keys)
    assert prefix_mask(packed.prefixes, CPU).tolist() == [[True] * 3, [False] * 3, [False, False, True]]
    mask = mask_of(packed)
    assert read_by_each(mask[0]) == [[0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]]
    assert read_by_each(mask[1]) == [[3], [3, 4], [5]]
    assert read_by_each(mask[2]) == [[2, 3], [2, 3, 4], [2, 5]]


def test_without_prefixes_there_is_nothing_before_a_row() -> None:
    assert prefix_layers([None, None]) == []
    assert prefix_mask([None, None], CPU).shape == (2, 0)


def test_groups_share_a_row_only_behind_the_same_prefix() -> None:
    one, other = numbered(2), numbered(2)
    groups = [[row(10 * number, 3, prefix=prefix)] for number, prefix in enumerate((one, one, other, None, None), 1)]
    packed = pack(groups, CPU, 100)
    assert packed.prefixes == (one, other, None)
    assert packed.tokens.tolist() == [[10, 11, 12, 20, 21, 22], [30, 31, 32, 0, 0, 0], [40, 41, 42, 50, 51, 52]]
    assert read_by_each(mask_of(packed)[0])[3:] == [[0, 1, 5], [0, 1, 5, 6], [0, 1, 5, 6, 7]]


def test_padded_rows_end_together() -> None:
    slots = torch.randn(1, 4)
    padded = pad([plain([5, 6, 7]), replace(plain([8, SLOT]), slots=slots, prefix=numbered(2))], CPU)
    assert padded.tokens.tolist() == [[5, 6, 7], [0, 8, SLOT]]
    assert padded.positions.tolist() == [[0, 1, 2], [0, 0, 1]]
    assert padded.valid.tolist() == [[True, True, True], [False, True, True]]
    assert padded.ends.tolist() == [[0, 2], [1, 2]]
    assert len(padded.slots) == 1
    assert padded.slots[0] is slots
    assert len(padded.targets) == 0
    mask = mask_of(padded)
    assert read_by_each(mask[0]) == [[2], [2, 3], [2, 3, 4]]
    assert read_by_each(mask[1])[1:] == [[0, 1, 3], [0, 1, 3, 4]]


# Against the same sequences without a prefix.


def read_plainly(backbone: Backbone, embeddings: Tensor, targets: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The log-probabilities of the last tokens of a sequence [t, d], and its last hidden state, from one plain pass."""
    hidden = backbone.model.base_model(inputs_embeds=embeddings[None], use_cache=False).last_hidden_state[0]
    count = len(targets)
    table = backbone.logits(hidden[len(hidden) - count - 1 : -1]).log_softmax(-1)
    return table[torch.arange(count), torch.tensor(targets, dtype=torch.long)], hidden[-1]


def cases(backbone: Backbone, prefixes: Sequence[Prefix], cuts: Sequence[int]) -> list[tuple[int, Row]]:
    """Rows of different lengths behind each prefix, and behind none: (number of tokens that the prefix holds, row)."""
    tokens = backbone.encode(TEXT * 2)
    rows: list[tuple[int, Row]] = []
    for prefix, cut in zip(prefixes, cuts, strict=True):
        for length, count in ((6, 3), (1, 5), (9, 0)):
            prompt, targets = tokens[cut : cut + length], tokens[cut + length : cut + length + count]
            rows.append((cut, Row(behind(prefix, prompt), (Text(tokens=tuple(prompt)),), tuple(targets))))
    rows.append((0, Row(plain(tokens[:12]), (Text(tokens=tuple(tokens[:12])),), tuple(tokens[12:16]))))
    return rows


CUTS = (9, 1, 17)


@torch.no_grad()
def test_rows_behind_prefixes_of_different_lengths_equal_plain_sequences(any_backbone: Backbone) -> None:
    tokens = any_backbone.encode(TEXT * 2)
    rows = cases(any_backbone, [prefix_of(any_backbone, tokens[:cut]) for cut in CUTS], CUTS)
    groups = [cut for cut, _ in rows]
    results, batches = score_rows(any_backbone, [row for _, row in rows], groups)
    (batch,) = batches
    assert [prefix.length if prefix else 0 for prefix in batch.prefixes] == [*CUTS, 0], "one packed row for each prefix"
    assert batch.tokens.shape == (4, 24)
    for (cut, row), result in zip(rows, results, strict=True):
        (alone,), _ = score_rows(any_backbone, [row], [0])
        whole, last = read_plainly(any_backbone, any_backbone.embed(tokens[:cut] + row.tokens), row.targets)
        for scored in (result, alone):
            torch.testing.assert_close(scored.logprobs, whole, atol=2e-5, rtol=1e-5)
            torch.testing.assert_close(scored.last, last, atol=2e-5, rtol=1e-5)
        assert torch.equal(result.correct, alone.correct)
        torch.testing.assert_close(result.hidden, alone.hidden, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_eager_attention_reads_the_same_prefixes(new_backbone: Callable[..., Backbone]) -> None:
    backbone = new_backbone()
    tokens = backbone.encode(TEXT * 2)
    rows = cases(backbone, [prefix_of(backbone, tokens[:cut]) for cut in CUTS], CUTS)
    groups = [cut for cut, _ in rows]
    expected, _ = score_rows(backbone, [row for _, row in rows], groups)
    backbone.model.set_attn_implementation("eager")
    results, _ = score_rows(backbone, [row for _, row in rows], groups)
    for result, same in zip(results, expected, strict=True):
        torch.testing.assert_close(result.logprobs, same.logprobs, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(result.last, same.last, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_rows_behind_another_prefix_do_not_share_its_row(backbone: Backbone) -> None:
    tokens = backbone.encode(TEXT)
    shared, equal = prefix_of(backbone, tokens[:9]), prefix_of(backbone, tokens[:9])
    parts, rest = (Text("same"),), tokens[9:14]
    rows = [Row(behind(prefix, rest), parts, (target,)) for target, prefix in enumerate((shared, equal, shared), 7)]
    results, (batch,) = score_rows(backbone, rows, [0, 0, 0])
    assert batch.prefixes == (shared, equal)
    assert batch.tokens.tolist() == [[*rest, 7, 9], [*rest, 8, 0]]
    expected, _ = read_plainly(backbone, backbone.embed([*tokens[:14], 7]), [7])
    torch.testing.assert_close(results[0].logprobs, expected, atol=2e-5, rtol=1e-5)
    _, (joined,) = score_rows(backbone, rows, [0, 1, 2], row_positions=100)
    assert joined.prefixes == (shared, equal, shared), "rows are filled in order"
    _, (joined,) = score_rows(backbone, rows[::2], [0, 1], row_positions=100)
    assert joined.prefixes == (shared,)


@torch.no_grad()
def test_last_states_over_gaps_of_positions_are_the_same_alone_and_in_a_batch(any_backbone: Backbone) -> None:
    """As slots stand that are spread out; `transformers` may take a gap for the start of another sequence."""
    tokens = any_backbone.encode(TEXT)
    rows = [plain(tokens[:12]), plain(tokens[3:8])]
    spread = [replace(row, positions=[3 * position for position in row.positions]) for row in rows]
    for row, state in zip(spread, last_states(any_backbone, spread), strict=True):
        torch.testing.assert_close(last_states(any_backbone, [row])[0], state, atol=2e-5, rtol=1e-5)
        length = len(row.tokens)
        hidden = any_backbone.model.base_model(
            inputs_embeds=any_backbone.embed(row.tokens)[None],
            position_ids=torch.tensor([row.positions]),
            attention_mask=torch.ones(length, length, dtype=torch.bool).tril()[None, None],
            use_cache=False,
        ).last_hidden_state
        torch.testing.assert_close(state, hidden[0, -1], atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_last_states_behind_prefixes_equal_plain_sequences(
    any_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = any_backbone.encode(TEXT * 2)
    rows = cases(any_backbone, [prefix_of(any_backbone, tokens[:cut]) for cut in CUTS], CUTS)
    rendered = [row.rendered for _, row in rows]
    sizes: list[int] = []
    hidden = any_backbone.hidden

    def count(embeddings: Tensor, *rest: Any) -> Tensor:
        sizes.append(len(embeddings))
        return hidden(embeddings, *rest)

    monkeypatch.setattr(any_backbone, "hidden", count)
    together = last_states(any_backbone, [*rendered, rendered[1], replace(rendered[2])])
    assert sizes == [len(rows)], "equal calls are run once"
    assert torch.equal(together[-2:], together[1:3])
    for (cut, row), state in zip(rows, together, strict=False):
        _, last = read_plainly(any_backbone, any_backbone.embed(tokens[:cut] + row.rendered.tokens), ())
        torch.testing.assert_close(state, last, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(last_states(any_backbone, [row.rendered])[0], last, atol=2e-5, rtol=1e-5)


def test_replies_behind_prefixes_equal_those_to_plain_sequences(any_backbone: Backbone) -> None:
    tokens = any_backbone.encode(TEXT * 2)
    rows = cases(any_backbone, [prefix_of(any_backbone, tokens[:cut]) for cut in CUTS], CUTS)
    sampling = [SamplingParams(max_tokens=8, temperature=number % 2, seed=number) for number in range(len(rows))]
    together = generate(any_backbone, [row.rendered for _, row in rows], sampling)
    for (cut, row), params, reply in zip(rows, sampling, together, strict=True):
        (alone,) = generate(any_backbone, [row.rendered], [params])
        (whole,) = generate(any_backbone, [plain(tokens[:cut] + row.rendered.tokens)], [params])
        for expected in (alone, whole):
            assert (reply.tokens, reply.finish) == (expected.tokens, expected.finish)
            assert reply.logprobs == pytest.approx(expected.logprobs, abs=2e-4)
    assert len({reply.tokens for reply in together}) > len(rows) // 2, "replies depend on their calls"


# Gradients.


def numbers(results: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Log-probabilities and last states in one row."""
    return torch.cat([part.flatten() for result in results for part in result])


def test_gradient_reaches_what_a_prefix_was_made_from(any_backbone: Backbone) -> None:
    """Through several rows behind one prefix, and prefixes of different lengths made from the same numbers."""
    tokens = any_backbone.encode(TEXT * 2)
    leaf = any_backbone.embed(tokens[: max(CUTS)]).detach().requires_grad_()

    def together() -> Tensor:
        prefixes = [prefix_from(any_backbone, leaf[:cut]) for cut in CUTS]
        rows = cases(any_backbone, prefixes, CUTS)
        results, _ = score_rows(any_backbone, [row for _, row in rows], [cut for cut, _ in rows])
        return weighted(numbers([(result.logprobs, result.last) for result in results]))

    def separately() -> Tensor:
        rows = cases(any_backbone, [prefix_from(any_backbone, leaf[:cut]) for cut in CUTS], CUTS)
        results = []
        for cut, row in rows:
            embeddings = torch.cat([leaf[:cut], any_backbone.embed(row.tokens)])
            results.append(read_plainly(any_backbone, embeddings, row.targets))
        return weighted(numbers(results))

    def reached(loss: Callable[[], Tensor]) -> dict[str, Tensor]:
        leaf.grad = None
        weights = gradients(any_backbone, lambda: loss().backward())
        assert leaf.grad is not None
        return weights | {"the leaf": leaf.grad}

    packed, apart = reached(together), reached(separately)
    assert float(apart["the leaf"].norm(dim=1).min()) > 0, "it reaches every position"
    assert_equal_gradients(packed, apart, 1e-4)


def test_a_prefix_without_gradient_is_a_constant(backbone: Backbone) -> None:
    tokens = backbone.encode(TEXT)
    with torch.no_grad():
        prefix = prefix_of(backbone, tokens[:9])
    results, _ = score_rows(backbone, [Row(behind(prefix, tokens[9:12]), (), (5,))], [0])
    assert results[0].logprobs.requires_grad
    results[0].logprobs.sum().backward()
    assert all(keys.grad is None and not keys.requires_grad for keys, _ in prefix.layers)
    backbone.model.zero_grad()


def test_only_the_row_behind_a_prefix_passes_a_gradient_to_it(backbone: Backbone) -> None:
    tokens = backbone.encode(TEXT)
    leaves = [backbone.embed(tokens[:cut]).detach().requires_grad_() for cut in (4, 7)]
    rows = [Row(behind(prefix_from(backbone, leaf), tokens[9:12]), (), (5,)) for leaf in leaves]
    results, _ = score_rows(backbone, rows, [0, 1])
    results[1].logprobs.sum().backward()
    assert leaves[1].grad is not None
    assert leaves[0].grad is None or not leaves[0].grad.any()
    backbone.model.zero_grad()
