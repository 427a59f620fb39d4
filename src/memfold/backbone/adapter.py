"""Low-rank adapters (LoRA) beside the weights of a base model, through `peft`; the base may be held in 4 bits (nf4).

An adapter folder is what `peft` writes (`adapter_config.json`, which names the base, and `adapter_model.safetensors`),
the configuration and tokenizer of the model, and, where layers were trained in full beside the adapters, their weights
in `full.safetensors`.  The base itself is not copied: it is read from where it was.
Left out: which layers get what, which is training's choice.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from memfold.backbone.weights import check_names
from memfold.core.errors import CheckpointError, MemfoldError

if TYPE_CHECKING:
    from memfold.backbone.model import Backbone

Quantisation = Literal["none", "nf4"]

CONFIG_FILE, WEIGHTS_FILE, FULL_FILE = "adapter_config.json", "adapter_model.safetensors", "full.safetensors"
PREFIX = "base_model.model."  # before every name in the files of peft
NAME = "default"


@dataclass(frozen=True)
class Adapter:
    """Which linear modules of which base have LoRA matrices, and which parameters were trained in full beside them.

    What such a module adds is `alpha / rank * B A x`.  `base` is a folder or a Hugging Face id.
    """

    base: str
    rank: int
    alpha: float
    targets: tuple[str, ...]
    full: tuple[str, ...] = ()
    quantisation: Quantisation = "none"


def attach(backbone: Backbone, adapter: Adapter, dropout: float = 0.0) -> None:
    """Put LoRA matrices (float32, adding nothing yet) beside the targets, after bringing these into 4 bits if asked."""
    from_peft = _peft()
    if adapter.quantisation == "nf4":
        for name in adapter.targets:
            _quantise(backbone.model, name)
    config = _config(adapter, dropout)
    backbone.model.is_loaded_in_4bit = adapter.quantisation == "nf4"  # type: ignore[assignment]  # peft asks for it
    meta = backbone.model.device.type == "meta"
    from_peft.inject_adapter_in_model(config, backbone.model, adapter_name=NAME, low_cpu_mem_usage=meta)
    for name, parameter in backbone.model.named_parameters():
        if is_lora(name):
            parameter.data = parameter.data.float()
    backbone.adapter = adapter


def is_lora(name: str) -> bool:
    """Whether a parameter is a LoRA matrix, by its name."""
    return ".lora_A." in name or ".lora_B." in name


def save_adapter(backbone: Backbone, folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write the adapter as `peft` stores it, and the weights trained in full; `weights` are the model's, by name."""
    adapter = backbone.adapter
    assert adapter is not None, "the model has an adapter"
    _config(adapter, 0.0).save_pretrained(str(folder))
    lora = {_stored(name): _plain(value) for name, value in weights.items() if is_lora(name)}
    save_file(lora, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    if adapter.full:
        save_file({name: _plain(weights[name]) for name in adapter.full}, folder / FULL_FILE)
    backbone.model.config.save_pretrained(folder)


def read_adapter(folder: Path, described: Mapping[str, Any] | None) -> Adapter:
    """The adapter of a folder; `described` is what its `memfold.json` says beyond the file of `peft`.

    Raises:
        CheckpointError: for a file that is damaged or no LoRA.
    """
    try:
        stored = json.loads((folder / CONFIG_FILE).read_text())
        targets, base = stored["target_modules"], stored["base_model_name_or_path"]
        targets = tuple(sorted(targets)) if isinstance(targets, list) else (str(targets),)
        rank, alpha = int(stored["r"]), float(stored["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE} is damaged or no LoRA adapter: {error}") from None
    if not base:
        raise CheckpointError(f"{folder / CONFIG_FILE} names no base model; write it under base_model_name_or_path")
    more = described or {}
    return Adapter(str(base), rank, alpha, targets, tuple(more.get("full", ())), more.get("quantisation", "none"))


def restore(backbone: Backbone, folder: Path, adapter: Adapter) -> None:
    """Attach an adapter to its base, with the weights of its folder, as they were stored.

    Raises:
        CheckpointError: for weights that are missing, too many, or of another size, naming them.
    """
    attach(backbone, adapter)
    try:
        stored = {_live(name): value for name, value in load_file(folder / WEIGHTS_FILE).items()}
        stored |= load_file(folder / FULL_FILE) if adapter.full else {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder} is damaged: {str(error).splitlines()[0]}") from None
    parameters = dict(backbone.model.named_parameters())
    wanted = {name for name in parameters if is_lora(name)} | set(adapter.full)
    wrong = [name for name in wanted & stored.keys() if parameters[name].shape != stored[name].shape]
    check_names(folder, wanted - stored.keys(), stored.keys() - wanted, wrong)
    for name in wanted:
        parameters[name].data = stored[name].to(parameters[name].device)


def merge(backbone: Backbone, dtype: torch.dtype) -> None:
    """Add what the LoRA matrices say to the weights beside them and leave an ordinary model of one dtype.

    A 4-bit weight is brought back to numbers first: the sum is what training has seen.
    """
    adapter = backbone.adapter
    assert adapter is not None, "the model has an adapter"
    for name in [name for name, module in backbone.model.named_modules() if hasattr(module, "lora_A")]:
        backbone.model.set_submodule(name, _merged(backbone.model.get_submodule(name), dtype))
    backbone.model.is_loaded_in_4bit = False  # type: ignore[assignment]
    backbone.model.to(dtype)  # type: ignore[arg-type]
    backbone.heads.to(dtype)
    backbone.model.requires_grad_(True)  # peft leaves that on its own matrices alone
    backbone.adapter = None


@torch.no_grad()
def _merged(module: nn.Module, dtype: torch.dtype) -> nn.Linear:
    layer = cast(Any, module)
    weight = _numbers(layer.base_layer).float() + layer.get_delta_weight(NAME).float()
    bias = layer.base_layer.bias
    merged = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    merged.weight = nn.Parameter(weight.to(dtype))
    if bias is not None:
        merged.bias = nn.Parameter(bias.detach().to(dtype))
    return merged


def _numbers(linear: nn.Linear) -> Tensor:
    """The weight of a linear module, out of its 4 bits where it is in them."""
    state = getattr(linear.weight, "quant_state", None)
    if state is None:
        return linear.weight
    exact = copy(state)
    exact.dtype = torch.float32  # what they stand for, not rounded to what they were made from
    restored: Tensor = _bitsandbytes().functional.dequantize_4bit(linear.weight.data, exact)
    return restored


def _quantise(model: nn.Module, name: str) -> None:
    """Put a 4-bit module (nf4, scales quantised too) in the place of a linear one.

    Always from 16-bit numbers, so that the 4 bits are the same whatever the model was loaded in.
    """
    library, linear = _bitsandbytes(), cast(nn.Linear, model.get_submodule(name))
    weight, dtype = linear.weight, linear.weight.dtype
    packed = library.nn.Linear4bit(
        linear.in_features, linear.out_features, linear.bias is not None, compute_dtype=dtype,
        compress_statistics=True, quant_type="nf4", device="meta",
    )  # fmt: skip
    packed.weight = library.nn.Params4bit(
        weight.data.to(torch.bfloat16), requires_grad=False, quant_type="nf4", compress_statistics=True, module=packed
    )
    if linear.bias is not None:
        packed.bias = nn.Parameter(linear.bias.data, requires_grad=False)
    model.set_submodule(name, packed.to(weight.device))  # moving is what quantises


def _config(adapter: Adapter, dropout: float) -> Any:
    return _peft().LoraConfig(
        r=adapter.rank, lora_alpha=adapter.alpha, lora_dropout=dropout, target_modules=list(adapter.targets),
        bias="none", task_type="CAUSAL_LM", base_model_name_or_path=adapter.base,
    )  # fmt: skip


def _stored(name: str) -> str:
    return PREFIX + name.replace(f".{NAME}.", ".")


def _live(name: str) -> str:
    name = name.removeprefix(PREFIX)
    return name.replace(".lora_A.", f".lora_A.{NAME}.").replace(".lora_B.", f".lora_B.{NAME}.")


def _plain(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous()


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise MemfoldError("low-rank adapters need peft; pip install 'memfold[adapters]'") from None
    return peft


def _bitsandbytes() -> Any:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of kernels that it could download
    try:
        import bitsandbytes
    except ImportError:
        raise MemfoldError("weights in 4 bits need bitsandbytes; pip install 'memfold[adapters]'") from None
    return bitsandbytes
