"""Low-rank adapters (LoRA) beside the weights of a model, through `peft`; the base may be held in 4 bits (nf4).

The base adapter (fqlora, or one that somebody else has trained) is part of the model: always active, merged where the
model is only used.  Roles are named adapters that memory systems add; a call activates one of them, or none (`active`).

An adapter folder is what `peft` writes (`adapter_config.json`, which names the base, and `adapter_model.safetensors`),
the configuration and tokenizer of the model, and, where layers were trained in full beside the adapters, their weights
in `full.safetensors`.  The base itself is not copied: it is read from where it was.
A role's files are those of `peft` too, in the folder `adapters/<role>` of a model folder.
Left out: which layers get what, which is training's choice.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from memfold.backbone.weights import check_names
from memfold.core.config import require
from memfold.core.errors import CheckpointError, ConfigError, MemfoldError

if TYPE_CHECKING:
    from memfold.backbone.model import Backbone

Quantisation = Literal["none", "nf4"]

CONFIG_FILE, WEIGHTS_FILE, FULL_FILE = "adapter_config.json", "adapter_model.safetensors", "full.safetensors"
ROLES_FOLDER = "adapters"
PREFIX = "base_model.model."  # before every name in the files of peft
NAME = "default"  # of the base adapter, to `peft`
TRAINED_IN_FULL = "trained_in_full"  # the key of `memfold.json` that lists such weights


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
    """Put LoRA matrices (float32, adding nothing yet) beside the targets, after bringing these into 4 bits if asked.

    Raises:
        ConfigError: for a model with roles.
    """
    if backbone.roles:
        raise ConfigError(
            f"model {backbone.name!r} has adapters for roles ({', '.join(backbone.roles)}), and a base adapter cannot "
            "be put beside them; begin with a model without roles"
        )
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
    backbone.base_adapter = adapter


def add_role(backbone: Backbone, role: str, rank: int, alpha: float, targets: tuple[str, ...], seed: int = 0) -> None:
    """Give a model an adapter that calls may activate by its role; it adds nothing until it is trained.

    Every other parameter keeps whether it is trained.  A role that is there stays as it is.

    Raises:
        ConfigError: for a name that `peft` cannot take, or a model with a base adapter that is not merged.
    """
    if role in backbone.roles:
        return
    require(role.isidentifier() and role != NAME, "adapter", role, f"a word other than {NAME!r}")
    if backbone.base_adapter is not None:
        raise ConfigError(
            f"adapter {role!r} cannot be added beside the base adapter of {backbone.name!r}; merge that first"
        )
    adapter = Adapter("", rank, alpha, targets)
    trained = {name: parameter.requires_grad for name, parameter in backbone.model.named_parameters()}
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that there are several adapters is what is wanted
        torch.manual_seed(seed)
        _peft().inject_adapter_in_model(_config(adapter, 0.0), backbone.model, adapter_name=role)
    for name, parameter in backbone.model.named_parameters():
        parameter.requires_grad_(trained.get(_plain_name(name), trained.get(name, True)))
        if is_lora(name):
            parameter.data = parameter.data.float()
    backbone.roles[role] = adapter
    backbone.stored_fingerprint = None
    _activate(backbone, backbone.active_role)


def check_role(backbone: Backbone, role: str | None) -> None:
    """Refuse a role that the model has no adapter for.

    Raises:
        CheckpointError: naming those that it has.
    """
    if role is not None and role not in backbone.roles:
        known = ", ".join(backbone.roles) or "none"
        raise CheckpointError(f"model {backbone.name!r} has no adapter {role!r}; its adapters: {known}; train it first")


@contextmanager
def active(backbone: Backbone, role: str | None) -> Iterator[None]:
    """See `Backbone.adapter`; what the block raises leaves no adapter active either."""
    check_role(backbone, role)
    before = backbone.active_role
    if role == before:
        yield
        return
    _activate(backbone, role)
    try:
        yield
    finally:
        _activate(backbone, before)


def _activate(backbone: Backbone, role: str | None) -> None:
    """Switch all layers to a role; what is trained stays so: a backward pass may still reach the role before."""
    backbone.active_role = role
    if not backbone.roles:
        return
    names = [] if role is None else [role]
    for module in backbone.model.modules():
        if hasattr(module, "lora_A"):
            layer = cast(Any, module)
            trained = [(parameter, parameter.requires_grad) for parameter in layer.parameters()]
            layer.set_adapter(names)
            for parameter, was_trained in trained:
                parameter.requires_grad_(was_trained)


def save_roles(backbone: Backbone, folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write every role's adapter into `folder`/adapters, as `peft` stores it; `weights` are the model's, by name."""
    for role, adapter in backbone.roles.items():
        place = folder / ROLES_FOLDER / role
        place.mkdir(parents=True, exist_ok=True)
        _config(adapter, 0.0).save_pretrained(str(place))
        lora = {_stored(name, role): _plain(weights[name]) for name in _matrices(weights, role)}
        save_file(lora, place / WEIGHTS_FILE, metadata={"format": "pt"})


def restore_roles(backbone: Backbone, folder: Path) -> None:
    """Add the adapters that a model folder holds for roles.

    Raises:
        CheckpointError: for an adapter that is damaged or not of this model.
    """
    for place in sorted(path.parent for path in folder.glob(f"{ROLES_FOLDER}/*/{CONFIG_FILE}")):
        rank, alpha, targets, _ = _read_config(place)
        add_role(backbone, place.name, rank, alpha, targets)
        parameters = dict(backbone.model.named_parameters())
        stored = {_live(name, place.name): value for name, value in _load(place, WEIGHTS_FILE).items()}
        _fill(parameters, _matrices(parameters, place.name), stored, place)


def _matrices(names: Iterable[str], role: str) -> set[str]:
    """Those of the parameters that belong to a role."""
    return {name for name in names if f".lora_A.{role}." in name or f".lora_B.{role}." in name}


def without_roles(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model's own weights by their own names."""
    return {_plain_name(name): value for name, value in weights.items() if not is_lora(name)}


def is_lora(name: str) -> bool:
    """Whether a parameter is a LoRA matrix, by its name."""
    return ".lora_A." in name or ".lora_B." in name


def save_adapter(backbone: Backbone, folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write the adapter as `peft` stores it, and the weights trained in full; `weights` are the model's, by name."""
    adapter = backbone.base_adapter
    assert adapter is not None, "the model has an adapter"
    _config(adapter, 0.0).save_pretrained(str(folder))
    lora = {_stored(name, NAME): _plain(value) for name, value in weights.items() if is_lora(name)}
    save_file(lora, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    if adapter.full:
        save_file({name: _plain(weights[name]) for name in adapter.full}, folder / FULL_FILE)
    backbone.model.config.save_pretrained(folder)


def read_adapter(folder: Path, described: Mapping[str, Any] | None) -> Adapter:
    """The adapter of a folder; `described` is what its `memfold.json` says beyond the file of `peft`.

    Raises:
        CheckpointError: for a file that is damaged or no LoRA.
    """
    rank, alpha, targets, base = _read_config(folder)
    if not base:
        raise CheckpointError(f"{folder / CONFIG_FILE} names no base model; write it under base_model_name_or_path")
    more = described or {}
    return Adapter(base, rank, alpha, targets, tuple(more.get(TRAINED_IN_FULL, ())), more.get("quantisation", "none"))


def _read_config(folder: Path) -> tuple[int, float, tuple[str, ...], str]:
    """Rank, alpha, targets and base of a configuration that `peft` wrote."""
    try:
        stored = json.loads((folder / CONFIG_FILE).read_text())
        targets, base = stored["target_modules"], stored["base_model_name_or_path"]
        targets = tuple(sorted(targets)) if isinstance(targets, list) else (str(targets),)
        return int(stored["r"]), float(stored["lora_alpha"]), targets, str(base or "")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE} is damaged or no LoRA adapter: {error}") from None


def restore(backbone: Backbone, folder: Path, adapter: Adapter) -> None:
    """Attach an adapter to its base, with the weights of its folder, as they were stored.

    Raises:
        CheckpointError: for weights that are missing, too many, or of another size, naming them.
    """
    attach(backbone, adapter)
    stored = {_live(name, NAME): value for name, value in _load(folder, WEIGHTS_FILE).items()}
    stored |= _load(folder, FULL_FILE) if adapter.full else {}
    parameters = dict(backbone.model.named_parameters())
    _fill(parameters, {name for name in parameters if is_lora(name)} | set(adapter.full), stored, folder)


def _load(folder: Path, file: str) -> dict[str, Tensor]:
    try:
        return load_file(folder / file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder} is damaged: {str(error).splitlines()[0]}") from None


def _fill(parameters: Mapping[str, nn.Parameter], wanted: set[str], stored: Mapping[str, Tensor], folder: Path) -> None:
    """Put stored weights in their place, after checking that they are exactly the wanted ones."""
    wrong = [name for name in wanted & stored.keys() if parameters[name].shape != stored[name].shape]
    check_names(folder, wanted - stored.keys(), stored.keys() - wanted, wrong)
    for name in wanted:
        parameters[name].data = stored[name].to(parameters[name].device)


def merge(backbone: Backbone, dtype: torch.dtype) -> None:
    """Add what the LoRA matrices say to the weights beside them and leave an ordinary model of one dtype.

    A 4-bit weight is brought back to numbers first: the sum is what training has seen.
    """
    adapter = backbone.base_adapter
    assert adapter is not None, "the model has an adapter"
    for name in [name for name, module in backbone.model.named_modules() if hasattr(module, "lora_A")]:
        backbone.model.set_submodule(name, _merged(backbone.model.get_submodule(name), dtype))
    backbone.model.is_loaded_in_4bit = False  # type: ignore[assignment]
    backbone.model.to(dtype)  # type: ignore[arg-type]
    backbone.heads.to(dtype)
    backbone.model.requires_grad_(True)  # peft leaves that on its own matrices alone
    backbone.base_adapter = None


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
    model.set_submodule(name, packed.to(weight.device))  # moving is what quantises


def _config(adapter: Adapter, dropout: float) -> Any:
    return _peft().LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=dropout,
        target_modules=list(adapter.targets),
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=adapter.base,
    )


def _stored(name: str, adapter: str) -> str:
    """The name under which `peft` stores a matrix of an adapter."""
    return PREFIX + name.replace(f".lora_A.{adapter}.", ".lora_A.").replace(f".lora_B.{adapter}.", ".lora_B.")


def _live(name: str, adapter: str) -> str:
    """The inverse of `_stored`."""
    name = name.removeprefix(PREFIX)
    return name.replace(".lora_A.", f".lora_A.{adapter}.").replace(".lora_B.", f".lora_B.{adapter}.")


def _plain_name(name: str) -> str:
    """A parameter's name in a model without adapters."""
    return name.replace(".base_layer.", ".")


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
