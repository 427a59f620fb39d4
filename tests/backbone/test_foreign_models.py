"""Model folders that others wrote: which attention they get, what ends their replies, and how they are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from architectures import VOCABULARY, architecture, tiny
from rendered_calls import plain
from transformers import GenerationConfig, PreTrainedTokenizerFast

from memfold.backbone.architectures import Fit
from memfold.backbone.decode import generate
from memfold.backbone.folder import load_backbone
from memfold.core.errors import CallError, CheckpointError, ConfigError
from memfold.core.types import SamplingParams

TOKENS = list(range(5, 25))


def saved(name: str, folder: Path, tokenizer: PreTrainedTokenizerFast, ends: int | list[int] | None = None) -> Path:
    """A folder as `transformers` writes it, with its own way of saying what ends a reply."""
    model = architecture(name, vocab_size=max(VOCABULARY, len(tokenizer)))
    model.generation_config = GenerationConfig(eos_token_id=ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "attention"), [("llama", "sdpa"), ("gemma2", "eager"), ("gpt_oss", "eager"), ("bloom", "eager")]
)
def test_a_model_gets_an_attention_that_it_has(
    name: str, attention: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    backbone = load_backbone(saved(name, tmp_path / "model", tokenizer))
    assert backbone.model.config._attn_implementation == attention
    backbone.set_attention("eager")
    if attention == "eager":
        message = (
            f"attention = 'sdpa' is not possible: {type(backbone.model).__name__} does not have it; use attention = "
        )
        with pytest.raises(ConfigError, match=message + "'eager'"):
            backbone.set_attention("sdpa")


def test_an_architecture_outside_of_the_table_is_measured_when_it_is_loaded(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert load_backbone(saved("falcon with ALiBi", tmp_path / "model", tokenizer)).fit == Fit("padded")
    for dtype in ("bfloat16", "float16"):
        assert load_backbone(tmp_path / "model", dtype=dtype).fit == Fit("padded")


def test_an_architecture_that_cannot_be_right_is_refused_when_it_is_loaded(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(
        CheckpointError, match=r"model 'model' cannot be used: RwkvForCausalLM is not in the table of"
    ) as it:
        load_backbone(saved("rwkv", tmp_path / "model", tokenizer))
    assert "\n" not in str(it.value)


def test_any_end_token_of_the_generation_settings_ends_a_reply(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    (whole,) = generate(tiny("llama"), [plain(TOKENS)], [SamplingParams(max_tokens=12)])
    end = whole.tokens[4]
    length = whole.tokens.index(end) + 1
    folder = saved("llama", tmp_path / "model", tokenizer, [end, 3])
    backbone = load_backbone(folder)
    assert backbone.end_tokens == {end, 3, backbone.end_token}
    one = tiny("llama")
    one.model.generation_config = backbone.model.generation_config
    (cut,) = generate(one, [plain(TOKENS)], [SamplingParams(max_tokens=12)])
    assert (cut.tokens, cut.finish) == (whole.tokens[:length], "stop")
    assert cut.text.split() == [str(token) for token in whole.tokens[: length - 1]], "the end token is no text"


@pytest.mark.parametrize("ends", [None, 7])
def test_one_end_token_or_none_in_the_generation_settings(
    ends: int | None, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    backbone = load_backbone(saved("llama", tmp_path / "model", tokenizer, ends))
    assert backbone.end_tokens == {backbone.end_token} | ({ends} if ends else set())


@torch.no_grad()
def test_a_model_that_overflows_in_float16_is_refused() -> None:
    backbone = tiny("llama")
    for name, weight in backbone.model.named_parameters():
        if name.endswith("down_proj.weight"):
            weight *= 30000
    generate(backbone, [plain(TOKENS)], [SamplingParams(max_tokens=2)])
    backbone.model.half()
    with pytest.raises(
        CallError, match=r'policy: the logits are not finite in float16; .* dtype="bfloat16" or "float32"'
    ):
        generate(backbone, [plain(TOKENS)], [SamplingParams(max_tokens=2)])


@torch.no_grad()
def test_damaged_weights_are_not_called_an_overflow() -> None:
    backbone = tiny("llama")
    for name, weight in backbone.model.named_parameters():
        if name.endswith("down_proj.weight"):
            weight.fill_(float("nan"))
    with pytest.raises(CallError, match="not finite in float32; its weights may be damaged; download the model again"):
        generate(backbone, [plain(TOKENS)], [SamplingParams(max_tokens=2)])
