"""Log-probabilities of every architecture in the table against the model's own forward pass in transformers.

Own forward passes have one row, no padding and no cache, and plain token ids or embeddings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, VOCABULARY, WINDOW, tiny
from rendered_calls import behind, plain
from torch import Tensor
from transformers import PreTrainedModel

from memfold.backbone.architectures import TESTED, UNKNOWN, Fit
from memfold.backbone.cache import growing_cache
from memfold.backbone.decode import DecodingBatch, advance, generate
from memfold.backbone.decoding_row import DecodingRow
from memfold.backbone.model import Backbone
from memfold.backbone.parity import measured_fit
from memfold.backbone.prefill import last_states
from memfold.backbone.rows import Row
from memfold.backbone.score import RowScores, score_rows
from memfold.core.errors import CheckpointError, ConfigError
from memfold.core.system import SLOT, Prefix, Rendered
from memfold.core.types import Reply, SamplingParams, Text

CLOSE = 1e-4  # nats
TOKENS: list[int] = torch.randint(3, VOCABULARY, (80,), generator=torch.Generator().manual_seed(5)).tolist()
assert WINDOW < 8


def own(model: PreTrainedModel, tokens: Sequence[int]) -> Tensor:
    """The log-probabilities [t, v] of the model's own forward pass."""
    logits: Tensor = model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0]
    return logits.log_softmax(-1)


def own_of(model: PreTrainedModel, tokens: Sequence[int], last: int) -> Tensor:
    """The log-probabilities of the last tokens of a sequence."""
    table, targets = own(model, tokens)[-last - 1 : -1], torch.tensor(list(tokens[-last:]))
    return table.gather(1, targets[:, None])[:, 0]


def call_of(*parts: Sequence[int], targets: Sequence[int] = ()) -> Row:
    """A call of several parts, from position 0 on."""
    tokens = [token for part in parts for token in part]
    lengths = tuple(map(len, parts))
    rendered = Rendered(tokens, list(range(len(tokens))), lengths)
    return Row(rendered, tuple(Text(tokens=tuple(part)) for part in parts), tuple(targets))


def assert_scored(model: PreTrainedModel, rows: Sequence[Row], scores: Sequence[RowScores]) -> None:
    for row, found in zip(rows, scores, strict=True):
        expected = own_of(model, row.tokens, len(row.targets))
        torch.testing.assert_close(found.logprobs, expected, atol=CLOSE, rtol=0)


def assert_sampled(model: PreTrainedModel, prompts: Sequence[Sequence[int]], replies: Sequence[Reply]) -> None:
    """The replies are what greedy decoding gives with the model's own forward pass."""
    for prompt, reply in zip(prompts, replies, strict=True):
        table = own(model, [*prompt, *reply.tokens])[len(prompt) - 1 : -1]
        best = table.max(-1)
        assert list(reply.tokens) == best.indices.tolist()
        assert reply.logprobs == pytest.approx(best.values.tolist(), abs=CLOSE)


@torch.no_grad()
def check_sampling(backbone: Backbone) -> None:
    """Rows of different lengths together, with a long common beginning, and joining while others are written."""
    prompts = [TOKENS[:14], TOKENS[5:9], TOKENS[3:22], TOKENS[:36], TOKENS[:34]]
    params = SamplingParams(max_tokens=5)
    assert_sampled(
        backbone.model, prompts[:3], generate(backbone, [plain(prompt) for prompt in prompts[:3]], [params] * 3)
    )
    assert_sampled(
        backbone.model, prompts[3:], generate(backbone, [plain(prompt) for prompt in prompts[3:]], [params] * 2)
    )
    rows = [DecodingRow(plain(prompt), params) for prompt in prompts[:2]]
    first, second = DecodingBatch(backbone, rows[:1]), DecodingBatch(backbone, rows[1:])
    first.step()
    if first.can_join:
        first.join(second)
    batches = [first] if first.can_join else [first, second]
    while batches:
        batches = advance(batches)
    assert_sampled(backbone.model, prompts[:2], [row.reply(backbone) for row in rows])


def check_scoring(backbone: Backbone) -> None:
    """Rows of different lengths: separate ones, ones with a common beginning, and several groups in one row."""
    rows = [
        call_of(TOKENS[:9], TOKENS[9 : 9 + more], targets=TOKENS[20 : 20 + count])
        for more, count in ((3, 8), (1, 5), (8, 2), (12, 4))
    ]
    with torch.no_grad():
        for groups, most in (([0, 1, 2, 3], 0), ([0, 0, 0, 0], 0), ([0, 0, 1, 1], 100)):
            assert_scored(backbone.model, rows, score_rows(backbone, rows, groups, most)[0])
        states = last_states(backbone, [row.rendered for row in rows])
        expected = torch.stack([own(backbone.model, row.rendered.tokens)[-1] for row in rows])
        torch.testing.assert_close(backbone.logits(states).log_softmax(-1), expected, atol=CLOSE, rtol=0)
    check_gradient(backbone, rows)


def check_gradient(backbone: Backbone, rows: Sequence[Row]) -> None:
    model = backbone.model

    def gradient(logprobs: Sequence[Tensor]) -> dict[str, Tensor]:
        model.zero_grad()
        torch.stack([each.sum() for each in logprobs]).sum().backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}

    expected = gradient([own_of(model, row.tokens, len(row.targets)) for row in rows])
    found = gradient([scores.logprobs for scores in score_rows(backbone, rows, [0] * len(rows))[0]])
    model.zero_grad()
    assert found.keys() == expected.keys()
    largest = max(float(each.abs().max()) for each in expected.values())
    for name, each in expected.items():
        torch.testing.assert_close(found[name], each, atol=1e-4 * largest, rtol=0, msg=name)


@torch.no_grad()
def prefix_of_tokens(backbone: Backbone, tokens: Sequence[int]) -> Prefix:
    """The keys and values of tokens, as the model itself computes them."""
    cache: Any = growing_cache(backbone.model.config)
    backbone.model(input_ids=torch.tensor([list(tokens)]), past_key_values=cache, use_cache=True)
    return Prefix(tuple((layer.keys[0], layer.values[0]) for layer in cache.layers))


@torch.no_grad()
def check_prefixes(backbone: Backbone) -> None:
    """Calls behind prefixes of different lengths, and one without."""
    cuts = [(0, 9, 14), (3, 5, 6), (0, 14, 20), (4, 4, 9)]
    whole = [TOKENS[start:end] for start, _, end in cuts]
    calls = [
        behind(prefix_of_tokens(backbone, TOKENS[start:cut]), TOKENS[cut:end])
        if cut > start
        else plain(TOKENS[cut:end])
        for start, cut, end in cuts
    ]
    assert_sampled(backbone.model, whole, generate(backbone, calls, [SamplingParams(max_tokens=5)] * len(calls)))
    rows = [Row(call, (), tuple(TOKENS[40:44])) for call in calls]
    for tokens, found in zip(whole, score_rows(backbone, rows, range(len(rows)))[0], strict=True):
        expected = own_of(backbone.model, [*tokens, *TOKENS[40:44]], 4)
        torch.testing.assert_close(found.logprobs, expected, atol=CLOSE, rtol=0)


@torch.no_grad()
def check_slots(backbone: Backbone) -> None:
    """Slots that are no token embeddings, at consecutive positions and with gaps, in a row of a batch."""
    model, size = backbone.model, backbone.hidden_size
    slots = backbone.embed(TOKENS[4:12]) + 0.5 * torch.randn(8, size, generator=torch.Generator().manual_seed(1))
    tokens = [*TOKENS[:4], *[SLOT] * 8, *TOKENS[12:16]]
    embeddings = torch.cat([backbone.embed(TOKENS[:4]), slots, backbone.embed(TOKENS[12:16])])[None]
    for positions in (list(range(16)), [0, 1, 2, 3, *range(5, 21, 2), 22, 23, 24, 25]):
        options = {"position_ids": torch.tensor([positions])} if "position_ids" in backbone._accepted else {}
        mask = torch.ones(1, 16, dtype=torch.long)
        logits = model(inputs_embeds=embeddings, attention_mask=mask, use_cache=False, **options).logits[0, -1]
        rendered = Rendered(tokens, positions, (16,), slots)
        states = last_states(backbone, [rendered, plain(TOKENS[:3])])
        expected = logits.log_softmax(-1)
        torch.testing.assert_close(backbone.logits(states[0]).log_softmax(-1), expected, atol=CLOSE, rtol=0)
        replies = generate(backbone, [rendered, plain(TOKENS[:3])], [SamplingParams(max_tokens=1)] * 2)
        assert replies[0].logprobs == pytest.approx([float(expected.max())], abs=CLOSE)


def test_every_architecture_is_tested() -> None:
    missing = TESTED.keys() - ARCHITECTURES.keys()
    assert not missing


@pytest.mark.parametrize("name", sorted(TESTED))
def test_the_numbers_are_those_of_the_models_own_forward_pass(name: str) -> None:
    backbone = tiny(name)
    assert backbone.fit == TESTED[name]
    check_sampling(backbone)
    check_scoring(backbone)
    if backbone.fit.rows == "packed":
        check_prefixes(backbone)
    if backbone.fit.slots:
        check_slots(backbone)


# What depends on the configuration, or is in no table.

MEASURED = {
    "falcon": Fit("packed"),
    "falcon with ALiBi": Fit("padded"),
    "falcon_h1": Fit("padded", slots=False),
    "gemma3n_text": Fit("packed", slots=False),
    "gemma4_text": Fit("packed", slots=False),
}


@pytest.mark.parametrize("name", sorted(MEASURED))
def test_an_architecture_without_a_known_fit_is_measured(name: str) -> None:
    backbone = tiny(name)
    assert backbone.fit is UNKNOWN
    backbone.fit = measured_fit(backbone)
    assert backbone.fit == MEASURED[name]
    check_sampling(backbone)
    check_scoring(backbone)
    if backbone.fit == Fit("packed"):
        check_prefixes(backbone)
    if backbone.fit.slots:
        check_slots(backbone)


@pytest.mark.parametrize("name", ["mistral", "gpt_neo", "jamba", "llama4_text", "mamba"])
def test_measuring_finds_what_the_table_says(name: str) -> None:
    assert measured_fit(tiny(name)) == TESTED[name]


@pytest.mark.parametrize("name", ["rwkv", "recurrent_gemma", "openai-gpt"])
def test_a_model_whose_numbers_are_wrong_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError) as refused:
        measured_fit(tiny(name))
    message = str(refused.value)
    assert message.startswith(f"model '{name}' cannot be used: ")
    assert "is not in the table of docs/models.md, and its numbers here are not those of its own forward" in message
    assert "\n" not in message


def test_slots_are_refused_by_a_model_that_reads_more_of_a_token_than_its_embedding() -> None:
    backbone = tiny("gemma4_text")
    call = Rendered([TOKENS[0], SLOT], [0, 1], (2,), torch.zeros(1, backbone.hidden_size))
    with pytest.raises(ConfigError, match=r"model 'gemma4_text' cannot read slots: .*; use a system whose memory is"):
        generate(backbone, [call], [SamplingParams(max_tokens=1)])


@pytest.mark.parametrize("name", ["bloom", "jamba", "llama4_text"])
def test_prefixes_are_refused_by_a_model_that_counts_positions_in_the_batch(name: str) -> None:
    backbone = tiny(name)
    call = behind(Prefix(((torch.zeros(2, 3, 8), torch.zeros(2, 3, 8)),) * 2), TOKENS[:2])
    with pytest.raises(ConfigError, match=f"model '{name}' cannot read a memory of keys and values: "):
        generate(backbone, [call], [SamplingParams(max_tokens=1)])
    with pytest.raises(ConfigError, match=f"model '{name}' cannot read a memory of keys and values: "):
        score_rows(backbone, [Row(call, (), (5,))], [0])


# The page of the documentation.

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
SAMPLING = {"packed": "in batches", "padded": "in batches", "alone": "one by one"}
SCORING = {"packed": "packed", "padded": "in batches", "alone": "in batches"}


def test_the_page_shows_the_table() -> None:
    shown = re.findall(r"^\| `([\w-]+)`(\\\*)? \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    fits = TESTED | {name: fit for name, fit in MEASURED.items() if " " not in name}
    expected = [
        (name, r"\*" if name in MEASURED else "", " | ".join(_columns(fit))) for name, fit in sorted(fits.items())
    ]
    assert shown == expected


def _columns(fit: Fit) -> tuple[str, ...]:
    prefixes, slots = fit.rows == "packed", fit.slots
    return SAMPLING[fit.rows], SCORING[fit.rows], "yes" if prefixes else "no", "yes" if slots else "no"
