"""Low-rank adapters (LoRA) for a model, through `peft`; the base model can be quantised to 4 bits (NF4).

The base adapter is part of the model: it is always active, and merged into the weights if the model is not trained
further.  It comes from training with fqlora or from another source.  Roles are named adapters that memory systems add;
a call activates at most one of them (`active`).

An adapter folder has the files that `peft` writes (`adapter_config.json`, which names the base model, and
`adapter_model.safetensors`), the configuration and tokenizer of the model and, if some parameters were trained in full,
their values in `full.safetensors`.  The base model is not copied; it is loaded from its original location.  The adapter
of a role is stored in the same format, in the folder `adapters/<role>` of a model folder.

The training configuration decides which modules are adapted.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from memfold.backbone.merged_roles import swap
from memfold.backbone.record import Quantisation
from memfold.backbone.resolve import CONFIG_FILE
from memfold.backbone.weights import check_names
from memfold.core.config import require
from memfold.core.errors import CheckpointError, ConfigError, MemfoldError

if TYPE_CHECKING:
    from memfold.backbone.model import Backbone

WEIGHTS_FILE, FULL_FILE = "adapter_model.safetensors", "full.safetensors"
PREFIX = "base_model.model."  # prefix of all tensor names in the files of peft
NAME = "default"  # name of the base adapter in `peft`
TRAINED_IN_FULL = "trained_in_full"  # key in `memfold.json` that lists these parameters


@dataclass(frozen=True)
class Adapter:
    """LoRA settings of a model: its base model, target modules, and parameters trained in full.

    A target module computes `W x + alpha / rank * B A x`.  `base` is a folder or a Hugging Face id.  `full` lists the
    parameters that were trained in full.  If `quantisation` is "nf4", the frozen weights of the target modules are
    quantised to 4 bits.
    """

    base: str
    rank: int
    alpha: float
    targets: tuple[str, ...]
    full: tuple[str, ...] = ()
    quantisation: Quantisation = "none"


def attach(backbone: Backbone, adapter: Adapter, dropout: float = 0.0) -> None:
    """Add LoRA matrices to the target modules, after quantising these modules if the adapter requires it.

    The matrices are float32.  B is zero, so they have no effect until they are trained.

    Raises:
        ConfigError: for a model with adapters of roles.
    """
    if backbone.roles:
        raise ConfigError(
            f"model {backbone.name!r} has adapters for roles ({', '.join(backbone.roles)}) and cannot have a base "
            "adapter too; start from a model without roles"
        )
    from_peft = peft_library()
    if adapter.quantisation == "nf4":
        for name in adapter.targets:
            _quantise(backbone.model, name)
    config = lora_config(adapter, dropout)
    backbone.model.is_loaded_in_4bit = adapter.quantisation == "nf4"  # type: ignore[assignment]  # required by peft
    meta = backbone.model.device.type == "meta"
    from_peft.inject_adapter_in_model(config, backbone.model, adapter_name=NAME, low_cpu_mem_usage=meta)
    for name, parameter in backbone.model.named_parameters():
        if is_lora(name):
            parameter.data = parameter.data.float()
    backbone.base_adapter = adapter


def add_role(backbone: Backbone, role: str, rank: int, alpha: float, targets: tuple[str, ...], seed: int = 0) -> None:
    """Add the named adapter of a role; it has no effect until it is trained.

    An existing role is left unchanged.  All other parameters keep their `requires_grad` flags.  `seed` determines the
    initial weights.

    Raises:
        ConfigError: for a name that `peft` does not accept, or a model with a base adapter that is not merged.
    """
    if role in backbone.roles:
        return
    require(role.isidentifier() and role != NAME, "adapter", role, f"a Python identifier other than {NAME!r}")
    if backbone.base_adapter is not None:
        raise ConfigError(
            f"adapter {role!r} cannot be added to model {backbone.name!r}, which has a base adapter; merge that first"
        )
    adapter = Adapter("", rank, alpha, targets)
    flags = {name: parameter.requires_grad for name, parameter in backbone.model.named_parameters()}
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # peft warns about several adapters
        torch.manual_seed(seed)
        peft_library().inject_adapter_in_model(lora_config(adapter, 0.0), backbone.model, adapter_name=role)
    for name, parameter in backbone.model.named_parameters():
        parameter.requires_grad_(flags.get(_plain_name(name), flags.get(name, True)))
        if is_lora(name):
            parameter.data = parameter.data.float()
    backbone.roles[role] = adapter
    backbone.stored_fingerprint = None
    _activate(backbone, backbone.active_role)


def check_role(backbone: Backbone, role: str | None) -> None:
    """Check that the model has an adapter for a role; None is always accepted.

    Raises:
        CheckpointError: for an unknown role; the message lists the adapters of the model.
    """
    if role is not None and role not in backbone.roles:
        stored = (folder.name for folder in backbone.stored_roles)
        names = ", ".join((*backbone.roles, *stored)) or "none"
        raise CheckpointError(f"model {backbone.name!r} has no adapter {role!r}; its adapters: {names}; train it first")


@contextmanager
def active(backbone: Backbone, role: str | None) -> Iterator[None]:
    """Activate the adapter of a role inside a `with` block, and restore the previous one afterwards.

    See `Backbone.adapter`.  The previous adapter is also restored if the block raises.
    """
    check_role(backbone, role)
    previous = backbone.active_role
    if role == previous:
        yield
        return
    _activate(backbone, role)
    try:
        yield
    finally:
        _activate(backbone, previous)


def _activate(backbone: Backbone, role: str | None) -> None:
    """Activate a role in all layers, and keep the `requires_grad` flags of all parameters.

    `peft` would freeze the inactive adapters, but a backward pass may still need their gradients.
    """
    swap(backbone.merged_roles, backbone.active_role, role)
    backbone.active_role = role
    if len(backbone.roles) == len(backbone.merged_roles):
        return
    names = [] if role is None else [role]
    for module in backbone.model.modules():
        if hasattr(module, "lora_A"):
            layer = cast(Any, module)
            flags = [(parameter, parameter.requires_grad) for parameter in layer.parameters()]
            layer.set_adapter(names)
            for parameter, requires_grad in flags:
                parameter.requires_grad_(requires_grad)


def without_roles(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights without LoRA matrices, under the names that they have in a model without adapters."""
    return {_plain_name(name): value for name, value in weights.items() if not is_lora(name)}


def is_lora(name: str) -> bool:
    """Return whether a parameter is a LoRA matrix, according to its name."""
    return ".lora_A." in name or ".lora_B." in name


def save_adapter(backbone: Backbone, folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write the base adapter in the format of `peft`, and the parameters that were trained in full.

    `weights` maps the parameter names of the model to the values to save.
    """
    adapter = backbone.base_adapter
    assert adapter is not None, "the model must have a base adapter"
    save_config(adapter, folder)
    lora = {file_name(name, NAME): on_cpu(value) for name, value in weights.items() if is_lora(name)}
    save_file(lora, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    if adapter.full:
        save_file({name: on_cpu(weights[name]) for name in adapter.full}, folder / FULL_FILE)
    backbone.model.config.save_pretrained(folder)


def read_adapter(folder: Path, described: Mapping[str, Any] | None) -> Adapter:
    """Return the adapter settings of a folder; `described` is the entry `adapter` of its `memfold.json`, or None.

    Raises:
        CheckpointError: for a file that is damaged, or not the configuration of a LoRA adapter.
    """
    rank, alpha, targets, base = read_config(folder)
    if not base:
        raise CheckpointError(f"{folder / CONFIG_FILE} names no base model; set base_model_name_or_path")
    extra = described or {}
    return Adapter(base, rank, alpha, targets, tuple(extra.get(TRAINED_IN_FULL, ())), extra.get("quantisation", "none"))


def read_config(folder: Path) -> tuple[int, float, tuple[str, ...], str]:
    """Return the rank, alpha, target modules and base model in a configuration file of `peft`."""
    try:
        stored = json.loads((folder / CONFIG_FILE).read_text())
        targets, base = stored["target_modules"], stored["base_model_name_or_path"]
        targets = tuple(sorted(targets)) if isinstance(targets, list) else (str(targets),)
        return int(stored["r"]), float(stored["lora_alpha"]), targets, str(base or "")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE} is damaged or not a LoRA configuration: {error}") from None


def restore(backbone: Backbone, folder: Path, adapter: Adapter) -> None:
    """Attach an adapter to its base model and load its weights from a folder, in the data type that they are stored in.

    Raises:
        CheckpointError: for weights that are missing, unexpected or of the wrong shape; the message names some of them.
    """
    attach(backbone, adapter)
    stored = {parameter_name(name, NAME): value for name, value in load_tensors(folder, WEIGHTS_FILE).items()}
    stored |= load_tensors(folder, FULL_FILE) if adapter.full else {}
    parameters = dict(backbone.model.named_parameters())
    fill(parameters, {name for name in parameters if is_lora(name)} | set(adapter.full), stored, folder)


def load_tensors(folder: Path, file: str) -> dict[str, Tensor]:
    """Return the tensors of a file in an adapter folder.

    Raises:
        CheckpointError: for a file that is missing or damaged.
    """
    try:
        return load_file(folder / file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder} is damaged: {str(error).splitlines()[0]}") from None


def fill(parameters: Mapping[str, nn.Parameter], wanted: set[str], stored: Mapping[str, Tensor], folder: Path) -> None:
    """Load stored weights into the parameters named `wanted`, after checking names and shapes."""
    wrong = [name for name in wanted & stored.keys() if parameters[name].shape != stored[name].shape]
    check_names(folder, wanted - stored.keys(), stored.keys() - wanted, wrong)
    for name in wanted:
        parameters[name].data = stored[name].to(parameters[name].device)


def merge(backbone: Backbone, dtype: torch.dtype) -> None:
    """Merge the base adapter into the weights; the result is an ordinary model with one data type.

    4-bit weights are dequantised first, so the merged model matches the one that was trained.
    """
    adapter = backbone.base_adapter
    assert adapter is not None, "the model must have a base adapter"
    for name in [name for name, module in backbone.model.named_modules() if hasattr(module, "lora_A")]:
        backbone.model.set_submodule(name, _merged(backbone.model.get_submodule(name), dtype))
    backbone.model.is_loaded_in_4bit = False  # type: ignore[assignment]
    backbone.model.to(dtype)  # type: ignore[arg-type]
    backbone.heads.to(dtype)
    backbone.model.requires_grad_(True)  # peft has frozen everything but its own matrices
    backbone.base_adapter = None


@torch.no_grad()
def _merged(module: nn.Module, dtype: torch.dtype) -> nn.Linear:
    layer = cast(Any, module)
    weight = _dequantised(layer.base_layer).float() + layer.get_delta_weight(NAME).float()
    bias = layer.base_layer.bias
    merged = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    merged.weight = nn.Parameter(weight.to(dtype))
    if bias is not None:
        merged.bias = nn.Parameter(bias.detach().to(dtype))
    return merged


def _dequantised(linear: nn.Linear) -> Tensor:
    """Return the weight of a linear module, dequantised to float32 if it has 4 bits."""
    state = getattr(linear.weight, "quant_state", None)
    if state is None:
        return linear.weight
    float_state = copy(state)
    float_state.dtype = torch.float32  # instead of rounding to the data type that was quantised
    restored: Tensor = _bitsandbytes().functional.dequantize_4bit(linear.weight.data, float_state)
    return restored


def _quantise(model: nn.Module, name: str) -> None:
    """Replace a linear module by a 4-bit one (NF4 with double quantisation).

    The weight is rounded to bfloat16 first, so the result does not depend on the data type of the loaded model.
    """
    library, linear = _bitsandbytes(), cast(nn.Linear, model.get_submodule(name))
    weight, dtype = linear.weight, linear.weight.dtype
    packed = library.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        linear.bias is not None,
        compute_dtype=dtype,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    packed.weight = library.nn.Params4bit(
        weight.data.to(torch.bfloat16), requires_grad=False, quant_type="nf4", compress_statistics=True, module=packed
    )
    if linear.bias is not None:
        packed.bias = nn.Parameter(linear.bias.data, requires_grad=False)
    model.set_submodule(name, packed.to(weight.device))  # moving to a device quantises the weight


def lora_config(adapter: Adapter, dropout: float) -> Any:
    """Return the settings of an adapter for `peft`."""
    return peft_library().LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=dropout,
        target_modules=list(adapter.targets),
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=adapter.base,
    )


def save_config(adapter: Adapter, folder: Path) -> None:
    """Write the settings of an adapter in the format of `peft`, the same bytes each time: it keeps modules in a set."""
    config = lora_config(adapter, 0.0)
    config.target_modules = sorted(adapter.targets)
    config.save_pretrained(str(folder))


def file_name(name: str, adapter: str) -> str:
    """Return the name of a LoRA matrix in the files of `peft`."""
    return PREFIX + name.replace(f".lora_A.{adapter}.", ".lora_A.").replace(f".lora_B.{adapter}.", ".lora_B.")


def parameter_name(name: str, adapter: str) -> str:
    """Return the parameter name of a LoRA matrix, the inverse of `file_name`."""
    name = name.removeprefix(PREFIX)
    return name.replace(".lora_A.", f".lora_A.{adapter}.").replace(".lora_B.", f".lora_B.{adapter}.")


def _plain_name(name: str) -> str:
    """Return the name of a parameter in a model without adapters."""
    return name.replace(".base_layer.", ".")


def on_cpu(value: Tensor) -> Tensor:
    """Return a copy of the values on the CPU, for a file."""
    return value.detach().cpu().contiguous()


def peft_library() -> Any:
    """Return the package `peft`.

    Raises:
        MemfoldError: if it is not installed.
    """
    _silence_bitsandbytes()  # which peft imports if it is there
    try:
        import peft
    except ImportError:
        raise MemfoldError("low-rank adapters need peft; install memfold again with its dependencies") from None
    return peft


def _silence_bitsandbytes() -> None:
    """Suppress its advice about optional kernels."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _bitsandbytes() -> Any:
    _silence_bitsandbytes()
    try:
        import bitsandbytes
    except ImportError:
        raise MemfoldError("4-bit weights need bitsandbytes; pip install 'memfold[adapters]'") from None
    return bitsandbytes
