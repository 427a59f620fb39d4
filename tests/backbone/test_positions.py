"""Windows, tables of positions that end, and rotary tables that depend on the length of a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from architectures import own_log_probabilities, tiny
from rendered_calls import plain
from transformers import LlamaConfig, MambaConfig, MptConfig, PreTrainedConfig, Qwen2Config

from memfold.backbone.decode import generate
from memfold.backbone.model import Backbone
from memfold.backbone.policy import LocalPolicy
from memfold.backbone.positions import NO_LIMIT, window_of
from memfold.backbone.rows import Row
from memfold.backbone.score import score_rows
from memfold.core.errors import CallError, Failure
from memfold.core.policy import Request
from memfold.core.types import Call, Generate, Memory, SamplingParams, Text
from memfold.systems.full.system import Full

TOKENS: list[int] = torch.randint(3, 90, (60,), generator=torch.Generator().manual_seed(2)).tolist()
CLOSE = 1e-4  # nats


def yarn(factor: float, **more: Any) -> dict[str, Any]:
    return {"rope_type": "yarn", "rope_theta": 10000.0, "factor": factor, **more}


@pytest.mark.parametrize(
    ("config", "window"),
    [
        (Qwen2Config(max_position_embeddings=32768), 32768),
        (Qwen2Config(max_position_embeddings=32768, rope_parameters=yarn(4.0)), 131072),
        (
            Qwen2Config(
                max_position_embeddings=40960, rope_parameters=yarn(4.0, original_max_position_embeddings=32768)
            ),
            131072,
        ),
        # the window in the configuration has the factor already
        (
            LlamaConfig(
                max_position_embeddings=163840, rope_parameters=yarn(40.0, original_max_position_embeddings=4096)
            ),
            163840,
        ),
        (MptConfig(max_seq_len=2048), 2048),
        (MambaConfig(), NO_LIMIT),
    ],
    ids=["plain", "yarn", "yarn with its own length", "yarn counted already", "another name", "none"],
)
def test_the_window_by_hand(config: PreTrainedConfig, window: int) -> None:
    assert window_of(config) == window


@pytest.mark.parametrize("name", ["gpt2", "opt", "gptj", "xglm", "gpt_neo"])
def test_a_table_of_positions_ends(name: str) -> None:
    backbone = tiny(name, max_position_embeddings=32)
    message = f"model '{name}' has 32 positions: its table of positions ends there; shorten the text or the reply"
    (reply,) = generate(backbone, [plain(TOKENS[:28])], [SamplingParams(max_tokens=20)])
    assert (reply.finish, len(reply.tokens)) == ("length", 5)  # the last one is never read
    with pytest.raises(CallError, match=f"policy: a call reaches position 32, but {message}"):
        score_rows(backbone, [Row(plain(TOKENS[:30]), (), tuple(TOKENS[30:33]))], [0])
    score_rows(backbone, [Row(plain(TOKENS[:29]), (), tuple(TOKENS[29:32]))], [0])


def test_a_call_past_the_table_fails_alone() -> None:
    backbone = tiny("gpt2", max_position_embeddings=32)
    execution, memory = LocalPolicy(backbone).start(), Memory("m", "full", {}, "", (), [])
    calls = [
        Call("answer", (Text(tokens=tuple(TOKENS[:count])),), Generate(SamplingParams(max_tokens=3)))
        for count in (9, 40)
    ]
    requests = [Request(Full(), memory, call) for call in calls]
    done: dict[Request, Any] = {}
    for request in requests:
        execution.submit(request)
    while len(done) < 2:
        done |= dict(execution.step())
    assert len(done[requests[0]].tokens) == 3
    assert isinstance(done[requests[1]], Failure)


def test_a_model_without_a_table_goes_on() -> None:
    (reply,) = generate(
        tiny("llama", max_position_embeddings=32), [plain(TOKENS[:28])], [SamplingParams(max_tokens=20)]
    )
    assert len(reply.tokens) == 20


def test_a_table_that_every_position_changes_is_not_used() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    backbone = tiny("llama", max_position_embeddings=32, rope_parameters=rope)
    (reply,) = generate(backbone, [plain(TOKENS[:20])], [SamplingParams(max_tokens=20)])
    assert (reply.finish, len(reply.tokens)) == ("length", 13)
    assert_greedy(backbone, TOKENS[:20], reply.tokens, reply.logprobs)
    with pytest.raises(CallError, match="its rotary table changes with every further position; shorten the text"):
        generate(backbone, [plain(TOKENS[:40])], [SamplingParams(max_tokens=2)])


def assert_greedy(backbone: Backbone, prompt: Sequence[int], tokens: Sequence[int], logprobs: Sequence[float]) -> None:
    """Each token is the best one after all tokens before it, computed anew, and has its log-probability."""
    for count, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
        best = own_log_probabilities(backbone.model, [*prompt, *tokens[:count]])[-1].max(-1)
        assert int(best.indices) == token
        assert logprob == pytest.approx(float(best.values), abs=CLOSE)


def long_rope() -> Backbone:
    """A model whose rotary table is another one for sequences of more than 16 positions."""
    factors = {"short_factor": [1.0, 1.5, 2.0, 1.0], "long_factor": [6.0, 9.0, 4.0, 12.0]}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 16, **factors}
    return tiny("phi3", sliding_window=None, original_max_position_embeddings=16, rope_parameters=rope)


@torch.no_grad()
def test_rows_with_short_and_long_tables_are_computed_apart() -> None:
    backbone = long_rope()
    rows = [Row(plain(TOKENS[:count]), (), tuple(TOKENS[40:43])) for count in (6, 30, 13, 14, 9)]
    assert [backbone.is_long(row.end) for row in rows] == [False, True, False, True, False]
    for groups in (range(len(rows)), [0] * len(rows)):
        scores, batches = score_rows(backbone, rows, list(groups), 200)
        assert len(batches) == 2
        for row, found in zip(rows, scores, strict=True):
            expected = own_log_probabilities(backbone.model, row.tokens)[-4:-1]
            wanted = expected.gather(1, torch.tensor(row.targets)[:, None])[:, 0]
            torch.testing.assert_close(found.logprobs, wanted, atol=CLOSE, rtol=0)
    tables = [own_log_probabilities(backbone.model, TOKENS[:count])[11] for count in (14, 24)]
    assert float((tables[0] - tables[1]).abs().max()) > 0.1, "the tables differ"


def test_a_reply_that_reaches_the_long_table_is_read_again_with_it() -> None:
    backbone = long_rope()
    prompts = [TOKENS[:4], TOKENS[3:16], TOKENS[:15], TOKENS[:30], TOKENS[2:18]]
    replies = generate(backbone, [plain(prompt) for prompt in prompts], [SamplingParams(max_tokens=8)] * len(prompts))
    for prompt, reply in zip(prompts, replies, strict=True):
        assert len(reply.tokens) == 8
        assert_greedy(backbone, prompt, reply.tokens, reply.logprobs)


def test_replies_with_both_tables_are_written_at_once_by_a_policy() -> None:
    backbone, memory = long_rope(), Memory("m", "full", {}, "", (), [])
    execution = LocalPolicy(backbone).start()
    wants = Generate(SamplingParams(max_tokens=6))
    calls = {count: Call("answer", (Text(tokens=tuple(TOKENS[:count])),), wants) for count in (5, 12, 15, 25)}
    requests = {Request(Full(), memory, call): count for count, call in calls.items()}
    done: dict[Request, Any] = {}
    for request in requests:
        execution.submit(request)
    while len(done) < len(requests):
        done |= dict(execution.step())
    for request, count in requests.items():
        assert_greedy(backbone, TOKENS[:count], done[request].tokens, done[request].logprobs)
