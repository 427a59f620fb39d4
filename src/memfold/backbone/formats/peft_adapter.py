"""Loads adapters as `peft` wrote them, with any of its rules for scales and ranks, and merges them into their base.

The adapters that memfold writes are in `memfold.backbone.adapters`; they need no more than one rank, one scale and a
list of modules.  An adapter of another program may have more, such as ranks by pattern, a scale by the root of the
rank, or modules that were trained in full.  `peft` loads and merges it, and the logits before and after merging are
compared, so that whatever cannot be part of the weights is refused.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from memfold.backbone.adapters import PREFIX, WEIGHTS_FILE, is_lora, load_tensors, peft_library
from memfold.backbone.model import Backbone
from memfold.backbone.parity import RIGHT
from memfold.backbone.resolve import CONFIG_FILE
from memfold.backbone.weights import check_names
from memfold.core.errors import CheckpointError

METHOD = "LORA"
# fields that an adapter of memfold has too, and those that say nothing about what the adapter computes
PLAIN = {"r", "lora_alpha", "target_modules", "base_model_name_or_path", "peft_type"}
SILENT = {
    "task_type", "auto_mapping", "peft_version", "revision", "inference_mode", "lora_dropout", "init_lora_weights",
    "megatron_core", "runtime_config", "layers_pattern", "loftq_config", "qalora_group_size",
}  # fmt: skip
STARTS = (True, False, "gaussian", "orthogonal")  # of `init_lora_weights`: those that leave the base as it is
# an adapter for a part of the tokens, a tie that merging loses, layers that the configuration does not count
REFUSED = ("alora_invocation_tokens", "ensure_weight_tying", "layer_replication")
WRITTEN_TWICE = ".modules_to_save."  # in the names of whole embeddings, which `peft` stores under another name too
SINGLE_TOKENS = "trainable_tokens_delta"
PROBE = 24  # tokens whose logits are compared


def unusual_fields(folder: Path) -> list[str]:
    """Return the fields of an adapter's configuration that an adapter of memfold does not have.

    If there are none but the file has more than low-rank matrices, that is returned in their place.

    Raises:
        CheckpointError: for another method than LoRA, and for fields that are not supported; the message names them.
    """
    stored, defaults = _stored(folder), _defaults()
    method = stored.get("peft_type")
    if method != METHOD:
        raise CheckpointError(f"{folder / CONFIG_FILE}: peft_type {method!r} is not supported; allowed: {METHOD!r}")
    told = [name for name, value in stored.items() if name not in PLAIN | SILENT and value != defaults.get(name)]
    told = [name for name in told if name in defaults or stored[name]]  # a field that is off changes nothing
    refused = [name for name in told if name in REFUSED or name not in defaults]
    if refused:
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: {refused[0]} = {stored[refused[0]]!r} is not supported; merge the adapter into "
            "its base model with the program that wrote it, and use the result"
        )
    if stored.get("init_lora_weights", True) not in STARTS:
        told.append("init_lora_weights")
    if not isinstance(stored.get("target_modules"), list):  # a pattern
        told.append("target_modules")
    return told or ["whole modules"] * any(not is_lora(name) for name in _names(folder))


def merge_adapter(backbone: Backbone, folder: Path) -> None:
    """Load the adapter of a folder into its base model, and merge it.

    Raises:
        CheckpointError: for weights that are missing, unexpected or of the wrong shape, or that merging changes.
    """
    library, stored = peft_library(), load_tensors(folder, WEIGHTS_FILE)
    model: Any = backbone.model
    _fit_vocabulary(model, stored)
    _untie(model, stored)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice for those who train
        try:
            config = library.LoraConfig.from_pretrained(str(folder))
            config.inference_mode = True
            adapted = library.PeftModel(model, config)
        except (ValueError, TypeError, KeyError, RuntimeError, NotImplementedError) as error:
            raise CheckpointError(f"{folder / CONFIG_FILE} does not suit its base model: {_line(error)}") from None
        own = library.get_peft_model_state_dict(adapted, save_embedding_layers=False)
        wrong = [name for name in own.keys() & stored.keys() if own[name].shape != stored[name].shape]
        check_names(folder, own.keys() - stored.keys(), (), wrong)
        unexpected = library.set_peft_model_state_dict(adapted, stored).unexpected_keys
        check_names(folder, (), [name for name in unexpected if WRITTEN_TWICE not in name])
        adapted.eval()
        expected = _logits(model)
        backbone.model = adapted.merge_and_unload()
    backbone.model.requires_grad_(True).eval()
    embedding: Any = backbone.model.get_input_embeddings()
    embedding.padding_idx = None  # as in `Backbone`
    difference = float((_logits(backbone.model) - expected).abs().mean(-1).max())
    if not difference <= RIGHT[backbone.dtype != torch.float32]:
        raise CheckpointError(
            f"the adapter {folder} cannot be merged into its base model: log-probabilities differ by "
            f"{difference:.2g}; merge it with the program that wrote it, and use the result"
        )


def _stored(folder: Path) -> dict[str, Any]:
    try:
        stored = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE} is damaged: {error}") from None
    if not isinstance(stored, dict):
        raise CheckpointError(f"{folder / CONFIG_FILE} does not hold a JSON object")
    return stored


def _defaults() -> dict[str, Any]:
    """Return the fields of a LoRA configuration with their defaults, as they are stored."""
    config = peft_library().LoraConfig()
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


def _names(folder: Path) -> list[str]:
    """Return the names of the weights of an adapter."""
    try:
        with safe_open(folder / WEIGHTS_FILE, "pt") as opened:
            return list(opened.keys())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder} is damaged: {_line(error)}") from None


def _fit_vocabulary(model: Any, stored: Mapping[str, Tensor]) -> None:
    """Give the embedding the number of rows that the adapter was trained with: tokens may have been added to it."""
    rows = {stored[name].shape[0] for name in _embeddings(model, stored) if stored[name].dim() == 2}
    if len(rows) == 1 and rows != {model.get_input_embeddings().weight.shape[0]}:
        model.resize_token_embeddings(rows.pop(), mean_resizing=False)


def _untie(model: Any, stored: Mapping[str, Tensor]) -> None:
    """Separate the output layer from the embedding if an adapter changes only one of them, or each in another way.

    Single tokens that were trained change both.
    """
    output, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    modules = tuple(f"{PREFIX}{_name_of(model, module)}." for module in (output, embedding))
    touched = any(name.startswith(modules) and not name.endswith(SINGLE_TOKENS) for name in stored)
    if output is None or output.weight is not embedding.weight or not touched:
        return
    output.weight = nn.Parameter(embedding.weight.detach().clone())
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False


def _embeddings(model: Any, stored: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield the names of stored weights that are whole embeddings or output layers."""
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        name = f"{PREFIX}{_name_of(model, module)}"
        yield from (full for full in (f"{name}.weight", f"{name}.base_layer.weight") if full in stored)


def _name_of(model: nn.Module, wanted: nn.Module | None) -> str:
    return next((name for name, module in model.named_modules() if module is wanted), "")


@torch.no_grad()
def _logits(model: Any) -> Tensor:
    """Return the log-probabilities [t, v] of a few tokens."""
    count = model.get_input_embeddings().weight.shape[0]
    tokens = torch.randint(count, (1, PROBE), generator=torch.Generator().manual_seed(0)).to(model.device)
    logits: Tensor = model(input_ids=tokens, use_cache=False).logits[0]
    return logits.float().log_softmax(-1)


def _line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
