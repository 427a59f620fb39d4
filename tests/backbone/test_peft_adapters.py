"""Adapters as `peft` writes them: each rule gives the logits of `peft` itself, or is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.utils.save_and_load import load_peft_weights
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from memfold.backbone.export import export
from memfold.backbone.folder import load_backbone
from memfold.core.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # advice of peft

TOKENS = torch.tensor([[7, 40, 300, 12, 9, 41]])
ATTENTION = ["q_proj", "v_proj"]
RULES: dict[str, dict[str, Any]] = {
    "rslora": {"target_modules": ATTENTION, "use_rslora": True},
    "ranks by pattern": {"target_modules": ATTENTION, "rank_pattern": {"q_proj": 8}},
    "scales by pattern": {"target_modules": ATTENTION, "alpha_pattern": {"q_proj": 32}},
    "scales by a regular expression": {"target_modules": ATTENTION, "alpha_pattern": {r"layers\.1\..*": 32}},
    "dora": {"target_modules": ATTENTION, "use_dora": True},
    "modules by a regular expression": {"target_modules": r".*\.(q_proj|v_proj)"},
    "some layers": {"target_modules": ATTENTION, "layers_to_transform": [1]},
    "all modules but one": {"target_modules": ATTENTION, "exclude_modules": ["model.layers.1.self_attn.q_proj"]},
    "biases": {"target_modules": ATTENTION, "bias": "all"},
    "biases of the adapter": {"target_modules": ATTENTION, "lora_bias": True},
    "an output layer of its own": {"target_modules": ATTENTION, "modules_to_save": ["lm_head"]},
    "norms of its own": {"target_modules": ATTENTION, "modules_to_save": ["norm"]},
    "the embedding": {"target_modules": [*ATTENTION, "embed_tokens"]},
    "the output layer": {"target_modules": [*ATTENTION, "lm_head"]},
    "parameters": {"target_modules": ATTENTION, "target_parameters": ["mlp.up_proj.weight"]},
    "single tokens": {"target_modules": ATTENTION, "trainable_token_indices": {"embed_tokens": [7, 40]}},
}


def base(folder: Path, tokenizer: PreTrainedTokenizerFast, tied: bool = False) -> Path:
    """A small model with strong weights, in an ordinary folder."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        initializer_range=0.3,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    output: Tensor = model(input_ids=TOKENS).logits
    return output


def adapted(model: PreTrainedModel, folder: Path, **rule: Any) -> Tensor:
    """Write an adapter that has been trained, and return the logits of `peft`."""
    config = peft.LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, task_type="CAUSAL_LM", **rule)
    theirs = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in (weight for weight in theirs.parameters() if weight.requires_grad):
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    theirs.eval().save_pretrained(folder)
    return logits(theirs)


@pytest.mark.parametrize("tied", [False, True], ids=["", "tied"])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_gives_the_logits_of_peft(
    rule: str, tied: bool, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    where = base(tmp_path / "base", tokenizer, tied)
    expected = adapted(AutoModelForCausalLM.from_pretrained(where), tmp_path / "adapter", **RULES[rule])
    loaded = load_backbone(tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded.model), expected, atol=1e-3, rtol=1e-3)
    assert type(loaded.model) is Qwen2ForCausalLM
    assert all(weight.requires_grad for weight in loaded.model.parameters())
    assert (loaded.name, loaded.trained) == ("adapter", {})


@pytest.mark.parametrize("rule", ["rslora", "the output layer"])
def test_a_merged_adapter_is_exported_as_an_ordinary_folder(
    rule: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    where = base(tmp_path / "base", tokenizer, tied=True)
    expected = adapted(AutoModelForCausalLM.from_pretrained(where), tmp_path / "adapter", **RULES[rule])
    with pytest.raises(CheckpointError, match=r"cannot be trained further; merge it first \(memfold export --merge\)"):
        export(str(tmp_path / "adapter"), tmp_path / "not")
    export(str(tmp_path / "adapter"), tmp_path / "whole", merge=True)
    torch.testing.assert_close(logits(load_backbone(tmp_path / "whole").model), expected, atol=1e-3, rtol=1e-3)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "whole").eval()
    torch.testing.assert_close(logits(theirs), expected, atol=1e-3, rtol=1e-3)


def test_modules_that_store_their_weights_turned_are_adapted(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    """GPT-2 has no linear modules; `peft` says so in the configuration that it writes."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, initializer_range=0.3)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    expected = adapted(model, tmp_path / "adapter", target_modules=["c_attn"], fan_in_fan_out=True)
    torch.testing.assert_close(logits(load_backbone(tmp_path / "adapter").model), expected, atol=1e-3, rtol=1e-3)


def test_the_tokenizer_and_the_tokens_that_came_with_an_adapter_are_used(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    where = base(tmp_path / "base", tokenizer)
    extended = PreTrainedTokenizerFast.from_pretrained(str(where))
    extended.add_tokens(["<|user|>", "<|reply|>"], special_tokens=True)
    extended.chat_template = "<|user|>{{ messages[0].content }}<|reply|>"
    model = AutoModelForCausalLM.from_pretrained(where)
    model.resize_token_embeddings(len(extended), mean_resizing=False)
    trained = {"target_modules": ATTENTION, "modules_to_save": ["embed_tokens", "lm_head"]}
    expected = adapted(model, tmp_path / "adapter", **trained)
    extended.save_pretrained(tmp_path / "adapter")
    loaded = load_backbone(tmp_path / "adapter")
    assert logits(loaded.model).shape[-1] == len(extended) == len(tokenizer) + 2
    torch.testing.assert_close(logits(loaded.model), expected, atol=1e-3, rtol=1e-3)
    assert loaded.chat_template == "message"
    assert loaded.prompts.frame == ("<|user|>", "<|reply|>")
    plain = adapted(AutoModelForCausalLM.from_pretrained(where), tmp_path / "plain", target_modules=ATTENTION)
    tokenizer_with_template = PreTrainedTokenizerFast.from_pretrained(str(where))
    tokenizer_with_template.chat_template = "{{ messages[0].content }}!"
    tokenizer_with_template.save_pretrained(tmp_path / "plain")
    loaded = load_backbone(tmp_path / "plain")
    torch.testing.assert_close(logits(loaded.model), plain, atol=1e-3, rtol=1e-3)
    assert loaded.prompts.frame == ("", "!")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' is not supported; allowed: 'LORA'"),
        ({"alora_invocation_tokens": [5]}, r"alora_invocation_tokens = \[5\] is not supported; merge the adapter into"),
        ({"scale_by_moon": 3}, "scale_by_moon = 3 is not supported"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication = .* is not supported"),
        ({"rank_pattern": {"q_proj": 2}}, r"of the wrong shape: base_model\.model\.model\.layers\.0\.self_attn\.q_p"),
        ({"target_modules": ".*nothing"}, r"adapter_config\.json does not suit its base model: "),
    ],
)
def test_what_is_not_supported_is_named_in_one_line(
    change: dict[str, Any], message: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    where = base(tmp_path / "base", tokenizer)
    adapted(AutoModelForCausalLM.from_pretrained(where), tmp_path / "adapter", target_modules=ATTENTION)
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match=message) as raised:
        load_backbone(tmp_path / "adapter")
    assert "\n" not in str(raised.value)


def test_a_field_of_a_newer_version_that_is_off_changes_nothing(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    where = base(tmp_path / "base", tokenizer)
    expected = adapted(AutoModelForCausalLM.from_pretrained(where), tmp_path / "adapter", target_modules=ATTENTION)
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_moon": False, "moons": None}))
    torch.testing.assert_close(logits(load_backbone(tmp_path / "adapter").model), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("lost", ["lora_magnitude_vector", "layers.1.self_attn.q_proj.lora_B"])
def test_weights_that_an_adapter_lacks_are_named(lost: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    where = base(tmp_path / "base", tokenizer)
    adapted(AutoModelForCausalLM.from_pretrained(where), tmp_path / "adapter", **RULES["dora"])
    kept = {name: value for name, value in load_peft_weights(str(tmp_path / "adapter")).items() if lost not in name}
    save_file(kept, tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=rf"; missing: base_model\.model.*{lost}"):
        load_backbone(tmp_path / "adapter")
    save_file(kept | {"moon": torch.zeros(1)}, tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="; missing: "):
        load_backbone(tmp_path / "adapter")


def test_weights_that_an_adapter_does_not_have_are_named(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    where = base(tmp_path / "base", tokenizer)
    adapted(AutoModelForCausalLM.from_pretrained(where), tmp_path / "adapter", **RULES["rslora"])
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file(load_peft_weights(str(tmp_path / "adapter")) | {"moon": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match=r"; unexpected: moon$"):
        load_backbone(tmp_path / "adapter")
