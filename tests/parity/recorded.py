"""What published programs computed with small random weights: tensors and JSON, one folder for each variant.

tests/fixtures/README.md says where they come from.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

FIXTURES = Path(__file__).parents[1] / "fixtures"
CLOSE = 1e-4  # keys, values, latents and embeddings in float32
CLOSE_LOGITS = 1e-3


def variants(layout: str) -> list[Path]:
    return sorted(path for path in (FIXTURES / layout).iterdir() if path.is_dir())


def recorded(folder: Path, name: str) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """The cases in `name`.json and the tensors in `name`.safetensors."""
    return json.loads((folder / f"{name}.json").read_text())["cases"], load_file(folder / f"{name}.safetensors")


def byte_tokenizer(special: tuple[str, ...], end: str) -> PreTrainedTokenizerFast:
    """A tokenizer whose ids are bytes, followed by special tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that stand for themselves
    others = [byte for byte in range(256) if byte not in printable]
    stands = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    assert sorted(stands.values()) == letters
    tokenizer = Tokenizer(models.BPE(vocab={stands[byte]: byte for byte in range(256)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end)
