"""Checks a model before and after its files are read: that they are complete, that it fits, and its tokenizer.

Only safetensors files are read.  Pickled weights can hold code that runs when they are loaded.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from memfold.core.errors import CheckpointError, ConfigError

CONFIG, INDEX, WEIGHTS = "config.json", "model.safetensors.index.json", "model.safetensors"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
TOKENIZERS = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json")
POINTER = b"version https://git-lfs"
AGAIN = "the download is not complete; download the model again"
GB = 1e9
_CONVERTED = {"F64", "F32", "BF16", "F16"}  # data types that are converted; others stay as they are stored


def check_files(folders: Sequence[Path], model: str, device: str, dtype: torch.dtype) -> None:
    """Check that each folder of a model is complete, and that the weights of all of them fit on a device.

    Raises:
        CheckpointError: for files that are missing, cut off or pickled.
        ConfigError: for a model that is larger than the memory of the device; the message names both sizes.
    """
    for folder in folders:
        if not (folder / CONFIG).is_file():
            raise CheckpointError(
                f"{folder} holds no {CONFIG}: the download is not complete, or the folder has a layout that memfold "
                "does not read (docs/models.md)"
            )
    files = [file for folder in folders for file in _weight_files(folder)]
    needed = sum(_size(file, dtype) for file in files)
    for folder in folders:
        if not any(next(folder.glob(pattern), None) for pattern in TOKENIZERS):
            raise CheckpointError(f"{folder} holds no tokenizer (tokenizer.json); {AGAIN}")
    memory = device_bytes(device)
    if memory is not None and needed > memory:
        name, fitting = str(dtype).removeprefix("torch."), sum(_size(file, torch.bfloat16) for file in files)
        shorter = 'dtype="bfloat16" (from Python), ' if dtype == torch.float32 and fitting <= memory else ""
        raise ConfigError(
            f"model {model!r} needs {needed / GB:.1f} GB in {name}, device {device!r} has {memory / GB:.1f} GB; "
            f"use {shorter}another device or a smaller model"
        )


def check_pickled(folder: Path, convert: str) -> None:
    """Refuse a folder without safetensors files if it has pickled weights; `convert` is how to convert them.

    Raises:
        CheckpointError: with the name of such a file.
    """
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickled:
        raise CheckpointError(
            f"{folder} holds pickled weights only ({pickled[0]}), which can run code when they are loaded; use the "
            f"safetensors files of the model, or convert them where you trust them: {convert}"
        )


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, name: str) -> None:
    """Check that a tokenizer has what is needed of it.

    A tokenizer without an end token gets that of the model.

    Raises:
        CheckpointError: if it cannot tell the places of its tokens in a text, if there is no end token, or if it has
            more tokens than the model.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise CheckpointError(
            f"model {name!r}: {type(tokenizer).__name__} cannot tell the places of its tokens in a text; convert it to "
            "a fast tokenizer (tokenizer.json)"
        )
    if tokenizer.eos_token_id is None:
        tokenizer.eos_token = _end_token(tokenizer, model)
    if tokenizer.eos_token_id is None:
        raise CheckpointError(f"model {name!r} has no end token; name it as eos_token in tokenizer_config.json")
    embedding: Any = model.get_input_embeddings()
    if tokenizer.vocab_size > embedding.weight.shape[0]:
        raise CheckpointError(
            f"model {name!r} has embeddings for {embedding.weight.shape[0]} tokens, its tokenizer has "
            f"{tokenizer.vocab_size}; use the tokenizer that belongs to the model"
        )


def device_bytes(device: str) -> int | None:
    """Return the memory of a device; None where it is not known."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(torch.device(device))[1])
    if device.startswith("cpu") and hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _weight_files(folder: Path) -> list[Path]:
    """Return the files with the weights of a folder."""
    if (folder / INDEX).is_file():
        try:
            names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise CheckpointError(f"{folder / INDEX} is damaged: {AGAIN}") from None
        lost = [name for name in names if not (folder / name).is_file()]
        if lost:
            raise CheckpointError(f"{folder} lacks {len(lost)} of {len(names)} files with weights ({lost[0]}); {AGAIN}")
        return [folder / name for name in names]
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    check_pickled(folder, "AutoModelForCausalLM.from_pretrained(OLD).save_pretrained(NEW)")
    raise CheckpointError(f"{folder} holds no weights ({WEIGHTS}); {AGAIN}")


def _size(file: Path, dtype: torch.dtype) -> int:
    """Return the bytes that the weights of a file take in a data type; the file must be complete.

    A file begins with the length of its header, and the header has the place of each tensor.
    """
    stored = file.stat().st_size
    with file.open("rb") as opened:
        beginning = opened.read(len(POINTER))
        if beginning == POINTER:
            raise CheckpointError(f"{file} is a pointer of Git LFS, not the weights; run git lfs pull")
        length = int.from_bytes(beginning[:8], "little")
        opened.seek(8)
        header = opened.read(length) if 8 + length <= stored else b""
    try:
        tensors = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        whole = 8 + length + max((entry["data_offsets"][1] for entry in tensors), default=0)
        size = sum(_tensor_size(entry, dtype) for entry in tensors)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise CheckpointError(f"{file} is not a safetensors file, or it is cut off; download the model again") from None
    if stored < whole:
        raise CheckpointError(f"{file} has {stored:,} of {whole:,} bytes; {AGAIN}")
    return size


def _tensor_size(entry: dict[str, Any], dtype: torch.dtype) -> int:
    begin, end = entry["data_offsets"]
    return math.prod(entry["shape"]) * dtype.itemsize if entry["dtype"] in _CONVERTED else int(end - begin)


def _end_token(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> str | None:
    """Return the end token in the settings of a model; None if there is none, or none of the tokenizer."""
    settings: Any = (getattr(model, "generation_config", None), model.config)
    for found in (getattr(each, "eos_token_id", None) for each in settings):
        number = found[0] if isinstance(found, list) and found else found
        token = tokenizer.convert_ids_to_tokens(number) if isinstance(number, int) else None
        if isinstance(token, str):
            return token
    return None
