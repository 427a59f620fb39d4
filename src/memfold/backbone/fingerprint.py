"""Fingerprints, which identify the weights of a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def fingerprint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, parameters: Iterable[tuple[str, nn.Parameter]]
) -> str:
    """Return the SHA-256 of the configuration, the tokenizer and the named parameters of a model."""
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True, default=str).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    for _, weight in sorted(parameters, key=lambda pair: pair[0]):
        digest.update(weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
