"""Tokens of our own for a model that does not know them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AddedToken, PreTrainedTokenizerBase


@torch.no_grad()
def add_tokens(tokenizer: PreTrainedTokenizerBase, model: Any, tokens: Sequence[str]) -> bool:
    """Add special tokens, whose embeddings begin as the mean of all; False where they were known.

    Most published models have embeddings to spare; where there are none, rows are added.
    """
    before = len(tokenizer)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in tokens], True)
    if len(tokenizer) == before:
        return False
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    weight = model.get_input_embeddings().weight
    weight[before : len(tokenizer)] = weight[:before].float().mean(0).to(weight)
    return True
