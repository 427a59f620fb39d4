"""Creates a model from scratch, with the Qwen3 architecture (its normalisation helps) and tied embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from memfold.backbone.model import Backbone
from memfold.training.recipe import ModelSize
from memfold.training.tokenizer import train_tokenizer


def make_backbone(size: ModelSize, seed: int, device: str, tokens: Sequence[str]) -> Backbone:
    """Create a model with random weights, and a tokenizer trained on generated text, with these special tokens."""
    tokenizer = train_tokenizer(size.vocabulary, size.tokenizer_seed, tokens)
    config = Qwen3Config(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        head_dim=size.hidden // size.heads,
        intermediate_size=size.feedforward,
        max_position_embeddings=size.window,
        rope_parameters={"rope_type": "default", "rope_theta": size.rope_theta},
        initializer_range=size.init,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    # only now: the embedding of a padding token would begin at 0, and this token begins every sequence
    model.config.pad_token_id = tokenizer.pad_token_id
    return Backbone("scratch", model.to(device), tokenizer)
