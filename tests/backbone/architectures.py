"""Tiny models of many architectures, with random weights, in which what sets an architecture apart is strong.

Windows are shorter than the sequences of the tests, and scales, caps and multipliers are far from 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from memfold.backbone.model import Backbone

VOCABULARY, HIDDEN = 97, 32
WINDOW = 6  # positions that a layer with a sliding window sees
ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]

COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "head_dim": 8,
}
MOE: dict[str, Any] = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SLIDING: dict[str, Any] = {"num_hidden_layers": 3, "layer_types": ALTERNATING, "sliding_window": WINDOW}
GEMMA3: dict[str, Any] = SLIDING | {"final_logit_softcapping": 2.0, "query_pre_attn_scalar": 3}
VISION: dict[str, Any] = {  # the part of a model that reads images, which is not used
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
LATENT: dict[str, Any] = {  # attention with latent keys and values
    "num_key_value_heads": 4,
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 6,
    "head_dim": 4,
}
MAMBA: dict[str, Any] = {
    "mamba_chunk_size": 8,
    "mamba_d_state": 8,
    "mamba_d_conv": 4,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_expand": 2,
}

# what each architecture needs besides `COMMON`; None removes an entry
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": WINDOW},
    "ministral": SLIDING,
    "ministral3": {},
    "mixtral": MOE | {"sliding_window": WINDOW},
    "qwen2": SLIDING | {"use_sliding_window": True},
    "qwen2_moe": SLIDING | MOE | {"use_sliding_window": True, "shared_expert_intermediate_size": 16},
    "qwen3": SLIDING | {"use_sliding_window": True},
    "qwen3_moe": MOE | {"sliding_window": WINDOW, "use_sliding_window": True},
    "gemma": {},
    "gemma2": SLIDING | {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 1.5, "query_pre_attn_scalar": 3},
    "gemma3_text": GEMMA3,
    "gemma3": {
        "text_config": COMMON | GEMMA3,
        "vision_config": VISION,
        "mm_tokens_per_image": 4,
        "image_token_index": 96,
    },
    "vaultgemma": SLIDING | {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 1.5},
    "phi": {},
    "phi3": {"sliding_window": WINDOW},
    "phimoe": MOE | {"sliding_window": WINDOW},
    "gpt2": {},
    "gpt_bigcode": {},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    "gpt_neox": {},
    "gptj": {"rotary_dim": 4},
    "codegen": {"rotary_dim": 4},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 24},
    "biogpt": {},
    "xglm": {"ffn_dim": 48, "attention_heads": 4},
    "bloom": {},
    "falcon": {"head_dim": None, "new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon with ALiBi": {"model_type": "falcon", "head_dim": None, "alibi": True, "new_decoder_architecture": False},
    "mpt": {},
    "stablelm": {},
    "starcoder2": {"sliding_window": WINDOW},
    "olmo": {"clip_qkv": 0.5},
    "olmo2": {},
    "olmo3": SLIDING,
    "olmoe": MOE,
    "flex_olmo": MOE,
    "cohere": {"logit_scale": 3.0},
    "cohere2": SLIDING | {"logit_scale": 3.0},
    "granite": {
        "logits_scaling": 0.2,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.9,
    },
    "granitemoe": MOE | {"logits_scaling": 0.2, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
    "granitemoeshared": MOE | {"logits_scaling": 0.2, "embedding_multiplier": 3.0, "shared_intermediate_size": 16},
    "smollm3": {"num_hidden_layers": 4, "no_rope_layer_interval": 2},
    "glm": {},
    "glm4": {},
    "glm4_moe": MOE | {"n_routed_experts": 4, "first_k_dense_replace": 1},
    "ernie4_5": {},
    "ernie4_5_moe": MOE | {"moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1},
    "exaone4": SLIDING,
    "helium": {},
    "nemotron": {},
    "persimmon": {},
    "deepseek_v2": LATENT | MOE | {"n_routed_experts": 4, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
    "deepseek_v3": LATENT | MOE | {"n_routed_experts": 4, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
    "gpt_oss": SLIDING | MOE | {"rope_parameters": {"rope_type": "default", "rope_theta": 150000.0}},
    "seed_oss": {},
    "arcee": {},
    "llama4_text": MOE
    | {
        "num_hidden_layers": 3,
        "attention_chunk_size": WINDOW,
        "no_rope_layers": [1, 1, 0],
        "floor_scale": 4,
        "interleave_moe_layer_step": 2,
        "layer_types": ["chunked_attention", "chunked_attention", "full_attention"],
        "intermediate_size_mlp": 24,
    },
    "diffllama": {},
    "doge": {},
    "dots1": MOE | {"n_shared_experts": 1} | {"n_routed_experts": 4, "first_k_dense_replace": 1},
    "nanochat": {"final_logit_softcapping": 2.0},
    "cwm": SLIDING,
    "bitnet": {},
    "apertus": {},
    "hunyuan_v1_dense": {},
    "minimax_m2": MOE,
    "jetmoe": MOE | {"kv_channels": 8},
    "modernbert-decoder": SLIDING | {"local_attention": WINDOW},
    "jais2": {},
    "minicpm3": LATENT,
    "afmoe": SLIDING | MOE | {"num_dense_layers": 1},
    # with recurrent layers
    "mamba": {"state_size": 8},
    "mamba2": {"state_size": 8, "num_heads": 8, "n_groups": 2, "chunk_size": 8, "head_dim": 8},
    "falcon_mamba": {"state_size": 8},
    "jamba": MOE | MAMBA | {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
    "bamba": MAMBA | {"num_hidden_layers": 3, "attn_layer_indices": [1], "mamba_n_groups": 1},
    "falcon_h1": MAMBA
    | {"mamba_d_ssm": 64, "mamba_n_groups": 1, "lm_head_multiplier": 3.0, "embedding_multiplier": 3.0},
    "granitemoehybrid": MOE
    | MAMBA
    | {
        "num_hidden_layers": 3,
        "layer_types": ["mamba", "attention", "mamba"],
        "logits_scaling": 0.2,
        "shared_intermediate_size": 16,
        "mamba_n_groups": 1,
    },
    "lfm2": {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"]},
    "qwen3_next": MOE
    | {
        "num_hidden_layers": 3,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "shared_expert_intermediate_size": 16,
    },
    "olmo_hybrid": {"num_hidden_layers": 3, "layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    # refused
    "rwkv": {},
    "openai-gpt": {},
    "recurrent_gemma": {
        "num_hidden_layers": 3,
        "lru_width": 32,
        "attention_window_size": WINDOW,
        "logits_soft_cap": 2.0,
    },
    # with more than an embedding for each token
    "gemma3n_text": SLIDING
    | {
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 0,
        "final_logit_softcapping": 2.0,
        "laurel_rank": 4,
        "activation_sparsity_pattern": [0.0, 0.0, 0.0],
    },
    "gemma4_text": SLIDING
    | {
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 0,
        "final_logit_softcapping": 2.0,
        "global_head_dim": 8,
    },
}


def architecture(name: str, **changes: Any) -> PreTrainedModel:
    """Return a tiny model of an architecture, in float32."""
    own = ARCHITECTURES[name] | changes
    settings = (
        own if "text_config" in own else {key: value for key, value in (COMMON | own).items() if value is not None}
    )
    config = AutoConfig.for_model(settings.pop("model_type", name), **settings)
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 1.2 * weight.shape[-1] ** -0.5)
            else:
                weight += 0.3 * torch.randn(weight.shape)
    model.generation_config.eos_token_id = None  # type: ignore[union-attr]
    return model.eval()


class Words:
    """A tokenizer of numbers, whose end token no model here writes."""

    eos_token_id = 10**6
    chat_template = None

    def __init__(self) -> None:
        self.added_tokens_decoder: dict[int, Any] = {}

    def decode(self, tokens: Sequence[int], **options: Any) -> str:
        return " ".join(map(str, tokens))

    def get_added_vocab(self) -> dict[str, int]:
        return {}


def tiny(name: str, **changes: Any) -> Backbone:
    """A backbone with a tiny model of an architecture."""
    tokenizer: Any = Words()
    return Backbone(name, architecture(name, **changes), tokenizer)


@torch.no_grad()
def own_log_probabilities(model: PreTrainedModel, tokens: Sequence[int]) -> Tensor:
    """The log-probabilities [t, v] of the model's own forward pass over one row, without a cache."""
    logits: Tensor = model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0]
    return logits.log_softmax(-1)
