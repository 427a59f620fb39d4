"""Converts a GGUF file, the format of llama.cpp, into a Hugging Face folder.

`gguf`, the library of the format, reads the file and turns its quantised blocks into numbers.  Models of the Llama
architecture with a tokenizer of the kind `smollm` are converted.  A setting, tensor or kind of token that is not known
here is refused, so that nothing in the file is ignored.

The loader in `transformers` is not used, because it does not save what it loaded, and because it does not know this
kind of tokenizer: it splits the white space before a number differently.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from memfold.core.errors import CheckpointError

Progress = Callable[[int, int], None]  # number of tensors that are converted, number of all tensors

ARCHITECTURE = "llama"
SETTINGS = {  # of the architecture in the file, and in the configuration of `transformers`
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.dimension_count": "head_dim",
    "vocab_size": "vocab_size",
}
ROPE_BASE = "rope.freq_base"
FLAGS = ("add_space_prefix", "add_bos_token", "add_eos_token")  # of the tokenizer; all of them must be false
SPECIAL_TOKENS = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
VOCABULARY = tuple(f"ggml.{name}" for name in ("model", "pre", "tokens", "token_type", "merges"))
TOKENIZER_SETTINGS = ("chat_template", *(f"ggml.{name}" for name in FLAGS))
TOKENIZER_SETTINGS += tuple(f"ggml.{name}_token_id" for name in SPECIAL_TOKENS)
NORMAL, CONTROL = 1, 3  # types of tokens
OUTPUT = "output.weight"  # the matrix of the logits, unless it is that of the embeddings


def convert(path: Path, folder: Path, dtype: torch.dtype, on_tensor: Progress = lambda done, count: None) -> None:
    """Write the configuration, the tokenizer and the weights of a GGUF file to an existing folder.

    Raises:
        CheckpointError: for a file that is damaged, or that holds something unknown; the message names it.
    """
    try:
        reader = gguf.GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise CheckpointError(f"{path} is not a whole GGUF file: {error}") from None
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    config = _config(path, fields, tied=OUTPUT not in tensors)
    weights = {name: weight.to(dtype) for name, weight in _weights(path, tensors, config, on_tensor)}
    config.dtype = dtype
    config.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _tokenizer(path, fields).save_pretrained(folder)


def _config(path: Path, fields: Mapping[str, Any], tied: bool) -> LlamaConfig:
    """Return the configuration; end and padding tokens are those of the tokenizer."""
    if fields.get("general.architecture") != ARCHITECTURE:
        raise CheckpointError(
            f"{path} has architecture {fields.get('general.architecture')!r}; only {ARCHITECTURE!r} can be converted"
        )
    settings = _section(fields, f"{ARCHITECTURE}.")
    _check_names(path, "setting", settings, needed=(*SETTINGS, ROPE_BASE))
    tokens = {name: fields.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "padding")}
    return LlamaConfig(
        **{own: _shortest(settings[name]) for name, own in SETTINGS.items()},
        rope_parameters={"rope_type": "default", "rope_theta": _shortest(settings[ROPE_BASE])},
        tie_word_embeddings=tied,
        bos_token_id=tokens["bos"],
        eos_token_id=tokens["eos"],
        pad_token_id=tokens["padding"],
        architectures=["LlamaForCausalLM"],
    )


def _shortest(value: Any) -> Any:
    """Return a number of 32 bits as the shortest decimal that stands for it: 1e-05, not 9.99999974e-06.

    >>> _shortest(9.999999747378752e-06), _shortest(30)
    (1e-05, 30)
    """
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _weights(
    path: Path, tensors: Mapping[str, Any], config: LlamaConfig, on_tensor: Progress
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights in float32 under the names of `transformers`."""
    assert config.head_dim is not None, "it is one of the settings"
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    shapes = {name: weight.shape for name, weight in model.named_parameters()}  # tied weights have one name
    stored = {name: f"{names.get_name(name.removesuffix('.weight'))}.weight" for name in shapes}
    _check_names(path, "tensor", tensors, needed=tuple(stored.values()))
    for number, (name, source) in enumerate(stored.items(), 1):
        weight = gguf.dequantize(tensors[source].data, tensors[source].tensor_type)
        if weight.shape != tuple(shapes[name]):
            raise CheckpointError(f"{path}: tensor {source!r} has shape {weight.shape}, not {tuple(shapes[name])}")
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight = _in_halves(weight, config.head_dim)
        yield name, torch.tensor(weight, dtype=torch.float32)
        on_tensor(number, len(stored))


def _in_halves(weight: np.ndarray[Any, Any], head_dim: int) -> np.ndarray[Any, Any]:
    """Return a query or key matrix [heads * head_dim, d] with the rows of each head in the order of `transformers`.

    The rotary embedding turns pairs of rows.  In the file the two rows of a pair are neighbours; in `transformers` they
    are half a head apart.
    """
    pairs = weight.reshape(-1, head_dim // 2, 2, weight.shape[1])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def _tokenizer(path: Path, fields: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """Return the byte-level tokenizer, with the special tokens and the chat template of the file."""
    settings = _section(fields, "tokenizer.")
    _check_names(path, "tokenizer setting", settings, VOCABULARY, TOKENIZER_SETTINGS)
    template, own = settings.get("chat_template"), _section(settings, "ggml.")
    kind = f"{own.get('model')}/{own.get('pre')}"
    if kind not in SPLITTERS:
        raise CheckpointError(f"{path} has a tokenizer of the kind {kind!r}; known: {', '.join(SPLITTERS)}")
    if flags := [flag for flag in FLAGS if own.get(flag)]:
        raise CheckpointError(f"{path} has the tokenizer setting {flags[0]!r}, which cannot be converted")
    tokens, types = own["tokens"], own["token_type"]
    if other := set(types) - {NORMAL, CONTROL}:
        raise CheckpointError(f"{path} has tokens of type {min(other)}, which cannot be converted")
    merges = [tuple(merge.split(" ")) for merge in own["merges"]]
    tokenizer: Any = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = SPLITTERS[kind]()
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, type_ in zip(tokens, types, strict=True) if type_ == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    ids = {name: own.get(f"{key}_token_id") for key, name in SPECIAL_TOKENS.items()}
    special = {name: tokens[index] for name, index in ids.items() if index is not None}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, **special)


def _digits_alone() -> Any:
    """Return what splits a text before it is encoded: every digit is a piece of its own, then as GPT-2 splits."""
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


def _section(fields: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the fields whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in fields.items() if name.startswith(prefix)}


def _check_names(
    path: Path, kind: str, names: Collection[str], needed: Sequence[str], allowed: Sequence[str] = ()
) -> None:
    """Refuse a file without a name that is needed, or with one that is not allowed: ignoring it could change the model.

    Raises:
        CheckpointError: with the first such name.
    """
    if missing := [name for name in needed if name not in names]:
        raise CheckpointError(f"{path} has no {kind} {missing[0]!r}")
    if unknown := [name for name in names if name not in (*needed, *allowed)]:
        raise CheckpointError(f"{path} has the {kind} {unknown[0]!r}, which cannot be converted")


SPLITTERS: dict[str, Callable[[], Any]] = {"gpt2/smollm": _digits_alone}  # by the kind of tokenizer
