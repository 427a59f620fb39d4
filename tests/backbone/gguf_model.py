"""A tiny random Llama, and the GGUF file that llama.cpp's converter would write of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

LAYERS, HIDDEN, HEADS, KEY_HEADS, INNER, WINDOW = 2, 64, 4, 2, 96, 128
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("Ġ t", "h e", "Ġt he", "Ġ Ġ", "Ċ Ċ")
TOKENS = (*CONTROL, *sorted(ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES))
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
QUANTISED = ("attn_q", "attn_k", "ffn_down", "token_embd")  # in blocks of 32 numbers of 8 bits


def tiny_llama(tied: bool = True) -> PreTrainedModel:
    """Return the model; its weights are multiples of 1/128 that blocks of 8 bits hold exactly."""
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=WINDOW,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        tie_word_embeddings=tied,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            numbers = torch.randint(-24, 25, weight.shape, generator=generator)
            numbers[..., ::32] = 127  # the largest number of every block, so that its scale is 1/128
            weight.copy_(numbers / 128)
    return model


def file_tensors(model: PreTrainedModel) -> dict[str, np.ndarray[Any, Any]]:
    """Return the tensors under the names of the file, with the rows of queries and keys in the order of the file."""
    tensors = {}
    for name, weight in model.named_parameters():
        owner = name.removesuffix(".weight")
        number = owner.split(".")[2] if owner.startswith("model.layers.") else None
        own = NAMES[owner if number is None else owner.removeprefix(f"model.layers.{number}.")]
        rows = weight.detach().numpy()
        if own in ("attn_q", "attn_k"):
            half = HIDDEN // HEADS // 2
            order = [
                head * 2 * half + part * half + pair
                for head in range(len(rows) // (2 * half))
                for pair in range(half)
                for part in range(2)
            ]
            rows = rows[order]
        tensors[own + ".weight" if number is None else f"blk.{number}.{own}.weight"] = rows
    return tensors


def fields() -> dict[str, Any]:
    """Return the metadata of the file."""
    return {
        "general.name": "tiny",
        "llama.block_count": LAYERS,
        "llama.context_length": WINDOW,
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": INNER,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KEY_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 1000.0,
        "llama.rope.dimension_count": HIDDEN // HEADS,
        "llama.vocab_size": len(TOKENS),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": list(TOKENS),
        "tokenizer.ggml.token_type": [3 if token in CONTROL else 1 for token in TOKENS],
        "tokenizer.ggml.merges": list(MERGES),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": TEMPLATE,
    }


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    change: Callable[[dict[str, Any], dict[str, np.ndarray[Any, Any]]], None] = lambda fields, tensors: None,
    architecture: str = "llama",
) -> Path:
    """Write the file; `change` changes its metadata and its tensors before."""
    import gguf

    metadata, tensors = fields(), file_tensors(model)
    change(metadata, tensors)
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in metadata.items():
        _add(writer, name, value)
    for name, rows in tensors.items():
        if name.split(".")[-2] in QUANTISED:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quantize(rows, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, np.array(rows))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: Any, name: str, value: Any) -> None:
    adders = {bool: "add_bool", int: "add_uint32", float: "add_float32", str: "add_string", list: "add_array"}
    getattr(writer, adders[type(value)])(name, value)
