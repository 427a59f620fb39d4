"""The fingerprint of a model: what tells its weights from all others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def fingerprint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, parameters: Iterable[tuple[str, nn.Parameter]]
) -> str:
    """SHA-256 over the configuration, the tokenizer and these weights by name."""
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True, default=str).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    for _, weight in sorted(parameters, key=lambda pair: pair[0]):
        digest.update(weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
