from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from memfold.backbone.folder import load_backbone, save_backbone
from memfold.backbone.model import Backbone
from memfold.core.errors import CheckpointError, ConfigError
from memfold.systems.pooled.learning import END, START


@pytest.fixture
def saved(any_backbone: Backbone, tmp_path: Path) -> Path:
    trained: dict[str, Any] = {"pooled": {"ratios": [4]}}
    described = replace(
        any_backbone, chat_template="chatml", trained=trained, familiar_loss=1.5, provenance={"seed": 3}
    )
    save_backbone(described, tmp_path / "model")
    return tmp_path / "model"


def test_a_saved_model_is_read_back_bit_for_bit(any_backbone: Backbone, saved: Path) -> None:
    again = load_backbone(saved)
    assert (again.chat_template, again.trained, again.familiar_loss) == ("chatml", {"pooled": {"ratios": [4]}}, 1.5)
    assert (again.provenance, again.window, again.end_token) == ({"seed": 3}, 2048, any_backbone.end_token)
    before, after = dict(any_backbone.parameters()), dict(again.parameters())
    assert before.keys() == after.keys()
    assert "heads.pooled.weight" in after
    assert all(torch.equal(before[name], after[name]) for name in before)
    text = "Ada, Velm é世 1893"
    assert again.encode(text) == any_backbone.encode(text)
    tokens = torch.tensor([any_backbone.encode(text)])
    assert torch.equal(again.model(tokens).logits, any_backbone.model(tokens).logits)


def test_the_fingerprint_of_a_folder_changes_with_its_weights_and_its_tokenizer(saved: Path) -> None:
    first = load_backbone(saved).fingerprint()
    assert load_backbone(saved).fingerprint() == first
    heads = load_file(saved / "heads.safetensors")
    heads["pooled.weight"][0, 0] += 1
    save_file(heads, saved / "heads.safetensors")
    second = load_backbone(saved).fingerprint()
    tokenizer = (saved / "tokenizer.json").read_text()
    (saved / "tokenizer.json").write_text(tokenizer + "\n")
    third = load_backbone(saved).fingerprint()
    assert len({first, second, third}) == 3


def test_the_fingerprint_in_memory_changes_with_one_weight(new_backbone: Callable[..., Backbone]) -> None:
    one, same, other = new_backbone(), new_backbone(), new_backbone()
    with torch.no_grad():
        dict(other.parameters())["model.norm.weight"][3] += 1
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()


@pytest.mark.parametrize("damage", ["memfold.json", "heads.safetensors", "model.safetensors", "config.json"])
def test_a_damaged_folder_is_a_checkpoint_error(backbone: Backbone, tmp_path: Path, damage: str) -> None:
    save_backbone(backbone, tmp_path)
    (tmp_path / damage).write_bytes((tmp_path / damage).read_bytes()[:20])
    with pytest.raises(CheckpointError) as raised:
        load_backbone(tmp_path)
    assert "\n" not in str(raised.value)
    assert str(tmp_path) in str(raised.value)


def test_another_format_and_chat_template_are_named(backbone: Backbone, tmp_path: Path) -> None:
    save_backbone(backbone, tmp_path)
    settings = json.loads((tmp_path / "memfold.json").read_text())
    (tmp_path / "memfold.json").write_text(json.dumps(settings | {"format": 7}))
    with pytest.raises(CheckpointError, match="has format 7, this version of memfold reads format 2"):
        load_backbone(tmp_path)
    (tmp_path / "memfold.json").write_text(json.dumps(settings | {"chat_template": "round"}))
    with pytest.raises(CheckpointError, match="chat_template 'round' is not one of"):
        load_backbone(tmp_path)


def test_a_plain_model_folder_has_no_heads(backbone: Backbone, tmp_path: Path) -> None:
    save_backbone(backbone, tmp_path)
    for name in ("memfold.json", "heads.safetensors"):
        (tmp_path / name).unlink()
    again = load_backbone(tmp_path)
    assert (len(again.heads), again.chat_template, again.trained) == (0, "plain", {})
    assert again.answering == {"chat_template": "plain", "style": "bare", "max_tokens": 512, "thinking": 0}


def test_a_plain_model_with_a_chat_template_uses_it(backbone: Backbone, tmp_path: Path) -> None:
    save_backbone(backbone, tmp_path)
    (tmp_path / "memfold.json").unlink()
    templates = []
    for template in ("<|im_start|>{{ messages[0].content }}", "{{ messages[0].content }}{{ '<think>\n' }}"):
        (tmp_path / "chat_template.jinja").write_text(template)
        loaded = load_backbone(tmp_path)
        templates.append((loaded.chat_template, loaded.prompts.frame, loaded.answering["thinking"]))
    assert templates == [("message", ("<|im_start|>", ""), 0), ("message", ("", "<think>\n"), 8192)]


def test_a_message_of_the_template_ends_a_reply(backbone: Backbone, tmp_path: Path) -> None:
    save_backbone(backbone, tmp_path)
    (tmp_path / "memfold.json").unlink()
    (tmp_path / "chat_template.jinja").write_text("<|im_start|>{{ messages[0].content }}<|im_end|>\n<|im_start|>")
    loaded = load_backbone(tmp_path)
    assert loaded.token_id("<|im_end|>") != loaded.end_token
    assert loaded.end_tokens >= {loaded.token_id("<|im_end|>"), loaded.end_token}
    assert backbone.message_end is None


def test_a_chat_template_that_cannot_be_used_is_refused_with_the_model(backbone: Backbone, tmp_path: Path) -> None:
    save_backbone(backbone, tmp_path)
    (tmp_path / "memfold.json").unlink()
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('this model reads tables only') }}")
    with pytest.raises(CheckpointError, match="cannot be applied to a user's message: this model reads tables only"):
        load_backbone(tmp_path)


def test_a_model_trained_here_keeps_the_defaults_of_its_systems(saved: Path) -> None:
    assert load_backbone(saved).answering == {"chat_template": "chatml"}


def test_impossible_places_and_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model at 'tinny'"):
        load_backbone("tinny")
    with pytest.raises(CheckpointError, match=r"no model at '\./missing'"):
        load_backbone("./missing")
    with pytest.raises(
        ConfigError, match="unknown dtype 'float8'; nearest: 'float32'; known: bfloat16, float16, float32"
    ):
        load_backbone(tmp_path, dtype="float8")


def test_a_device_that_is_not_there_is_a_config_error(backbone: Backbone, tmp_path: Path) -> None:
    save_backbone(backbone, tmp_path)
    with pytest.raises(ConfigError, match="device 'nowhere' is not possible; allowed: cpu, cuda, cuda:N, mps"):
        load_backbone(tmp_path, "nowhere")


def test_sizes_are_those_of_the_configuration(any_backbone: Backbone) -> None:
    # 2 layers, keys and values, 2 heads of 8 numbers of 2 bytes
    assert (any_backbone.hidden_size, any_backbone.window, any_backbone.kv_bytes_per_token) == (32, 2048, 128)


def test_special_tokens_have_ids_and_others_are_refused(backbone: Backbone) -> None:
    assert backbone.token_id(START) != backbone.token_id(END)
    assert backbone.decode([backbone.token_id(START), *backbone.encode("Velm"), backbone.end_token]) == "Velm"
    with pytest.raises(CheckpointError, match="model 'qwen3' has no token '<MEM_MIDDLE>'"):
        backbone.token_id("<MEM_MIDDLE>")


def test_offsets_point_at_the_characters_of_each_token(backbone: Backbone) -> None:
    text = "Ada met Brisk in Velm, 1893."
    tokens, offsets = backbone.tokenize(text)
    assert tokens == backbone.encode(text)
    assert [text[start:end] for start, end in offsets] == [backbone.decode([token]) for token in tokens]


def test_the_token_that_begins_every_sequence_learns(any_backbone: Backbone, saved: Path) -> None:
    """It is also the padding token, whose embedding gets no gradient in `torch.nn.Embedding`."""
    for backbone in (any_backbone, load_backbone(saved)):
        config, weight = backbone.model.config, backbone.model.get_input_embeddings().weight
        assert config.pad_token_id == config.eos_token_id == backbone.end_token
        (gradient,) = torch.autograd.grad(backbone.embed([backbone.end_token, 5]).sum(), weight)
        assert torch.equal(gradient[[backbone.end_token, 5, 6]].sum(1), torch.tensor([32.0, 32.0, 0.0]))
