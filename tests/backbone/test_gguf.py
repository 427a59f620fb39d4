"""GGUF files: a tiny made-up one against the model that it was made of, and those that cannot be converted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf_model import CONTROL, TEMPLATE, TOKENS, WINDOW, tiny_llama, write_gguf
from transformers import AutoModelForCausalLM

from memfold.backbone.folder import load_backbone
from memfold.core.errors import CheckpointError

pytest.importorskip("gguf")

from memfold.backbone.formats.gguf import convert

Change = Callable[[dict[str, Any], dict[str, np.ndarray[Any, Any]]], None]
PROMPT = torch.tensor([[1, 70, 80, 90, 100, 110, 120, 130]])


@pytest.mark.parametrize("tied", [True, False])
def test_a_converted_model_computes_what_the_source_computes(tmp_path: Path, tied: bool) -> None:
    source = tiny_llama(tied)
    (tmp_path / "model").mkdir()
    convert(write_gguf(tmp_path / "model.gguf", source), tmp_path / "model", torch.float32)
    backbone = load_backbone(tmp_path / "model")
    assert torch.equal(backbone.model(PROMPT).logits, source(PROMPT).logits)
    config = backbone.model.config
    assert (config.tie_word_embeddings, config.rms_norm_eps, config.eos_token_id) == (tied, 1e-5, 2)
    assert (backbone.window, backbone.hidden_size, backbone.end_token) == (WINDOW, 64, 2)


def test_transformers_reads_the_same_weights(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    path = write_gguf(tmp_path / "model.gguf", tiny_llama())
    convert(path, tmp_path / "model", torch.float32)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_tokenizer_has_the_vocabulary_the_merges_and_the_template(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    convert(write_gguf(tmp_path / "model.gguf", tiny_llama()), tmp_path / "model", torch.bfloat16)
    backbone = load_backbone(tmp_path / "model")
    tokenizer = backbone.tokenizer
    assert tokenizer.convert_ids_to_tokens(list(range(len(TOKENS)))) == list(TOKENS)
    text = "in the  1893\n\n é"
    ids = list(tokenizer(text)["input_ids"])
    pieces = ["i", "n", "Ġthe", "ĠĠ", "1", "8", "9", "3", "ĊĊ", "Ġ", "Ã", "©"]  # digits alone, and spaces before them
    assert ids == [TOKENS.index(piece) for piece in pieces]
    assert tokenizer.decode(ids) == text
    assert list(tokenizer("a<|im_end|>")["input_ids"]) == [TOKENS.index("a"), 2]
    names = (tokenizer.unk_token, tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token)
    assert names == (*CONTROL, "<|im_end|>")
    assert tokenizer.chat_template == TEMPLATE


def without(name: str) -> Change:
    return lambda fields, tensors: (tensors if name in tensors else fields).pop(name)


def with_field(name: str, value: Any) -> Change:
    return lambda fields, tensors: fields.update({name: value})


def with_tensor(name: str, *shape: int) -> Change:
    return lambda fields, tensors: tensors.update({name: np.zeros(shape, np.float32)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_field("llama.rope.scaling.type", "yarn"), "has the setting 'rope.scaling.type', which cannot be"),
        (without("llama.rope.freq_base"), "has no setting 'rope.freq_base'"),
        (with_tensor("rope_freqs.weight", 8), "has the tensor 'rope_freqs.weight', which cannot be converted"),
        (without("blk.1.attn_k.weight"), "has no tensor 'blk.1.attn_k.weight'"),
        (with_tensor("output_norm.weight", 32), r"'output_norm.weight' has shape \(32,\), not \(64,\)"),
        (with_field("tokenizer.ggml.pre", "tekken"), "of the kind 'gpt2/tekken'; known: gpt2/smollm"),
        (with_field("tokenizer.ggml.add_bos_token", True), "has the tokenizer setting 'add_bos_token', which cannot"),
        (with_field("tokenizer.ggml.scores", [0.0]), "has the tokenizer setting 'ggml.scores', which cannot"),
        (with_field("tokenizer.ggml.token_type", [4] * len(TOKENS)), "has tokens of type 4, which cannot be"),
        (without("tokenizer.ggml.merges"), "has no tokenizer setting 'ggml.merges'"),
    ],
)
def test_what_is_unknown_is_refused(tmp_path: Path, change: Change, message: str) -> None:
    path = write_gguf(tmp_path / "model.gguf", tiny_llama(), change)
    (tmp_path / "model").mkdir()
    with pytest.raises(CheckpointError, match=message):
        convert(path, tmp_path / "model", torch.float32)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", tiny_llama(), architecture="gemma")
    with pytest.raises(CheckpointError, match="has architecture 'gemma'; only 'llama' can be converted"):
        convert(path, tmp_path, torch.float32)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_part_of_a_file_is_refused(tmp_path: Path, share: float) -> None:
    data = write_gguf(tmp_path / "model.gguf", tiny_llama()).read_bytes()
    (tmp_path / "part.gguf").write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match=r"part\.gguf is not a whole GGUF file"):
        convert(tmp_path / "part.gguf", tmp_path, torch.float32)
