"""Adds special tokens to a model and its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AddedToken

from memfold.backbone.model import Backbone


@torch.no_grad()
def add_special_tokens(backbone: Backbone, tokens: Sequence[str]) -> None:
    """Add special tokens that the tokenizer does not have; their embeddings start as the mean of all embeddings.

    Most published models have unused rows in their embedding matrix; otherwise it is enlarged.
    """
    tokenizer, model = backbone.tokenizer, backbone.model
    before = len(tokenizer)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in tokens], True)
    if len(tokenizer) == before:
        return
    embeddings: Any = model.get_input_embeddings()
    if len(tokenizer) > embeddings.weight.shape[0]:
        embeddings = model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    weight = embeddings.weight
    weight[before : len(tokenizer)] = weight[:before].float().mean(0).to(weight)
    backbone.stored_fingerprint = None
    backbone.forget_tokens()
