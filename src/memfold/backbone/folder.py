"""Loads and saves model folders.

A model folder is an ordinary Hugging Face folder with additional files: `memfold.json` (chat template, the record of
each trained system, provenance), `heads.safetensors` (the heads of systems) and `adapters/` (the adapters of roles).  A
folder without these files is a plain causal LM, which suits systems that read text.  A folder with an adapter
(`memfold.backbone.adapters`) names its base model.  If a decoder was trained alone, or another model encodes its
documents, the encoder is in the subfolder `encoder`.

The training state is part of checkpoints, not of model folders.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from memfold.backbone import adapters, role_files
from memfold.backbone.architectures import UNKNOWN
from memfold.backbone.device import check_device, check_dtype
from memfold.backbone.formats.peft_adapter import merge_adapter, unusual_fields
from memfold.backbone.model import DTYPES, Backbone
from memfold.backbone.model_files import check_files, check_tokenizer
from memfold.backbone.record import ROLES_FOLDER, SETTINGS_FILE, SETTINGS_FORMAT, file_fingerprint, read_settings
from memfold.backbone.resolve import CONFIG_FILE, hub_has
from memfold.backbone.tokens import add_special_tokens
from memfold.backbone.weights import load_weights
from memfold.core import registry
from memfold.core.errors import CheckpointError, ConfigError
from memfold.core.prompt import CHAT_TEMPLATES

HEADS_FILE = "heads.safetensors"
ENCODER_FOLDER = "encoder"
TOKENIZER_FILE = "tokenizer_config.json"
transformers_logging.disable_progress_bar()  # memfold shows its own progress


def load_backbone(
    where: str | Path, device: str = "cpu", dtype: str = "float32", merged: bool = True, roles: bool = True
) -> Backbone:
    """Load a model folder (or a Hugging Face id), with its heads and adapters if there are any.

    For an adapter folder, the base model is loaded and the adapter is merged into it.  If `merged` is false, the
    adapter stays separate, in the data type that it is stored in, so that training can continue.  If `roles` is false,
    the model is for reading: the adapter of a role is read when it is first used, and merged if the model is small.

    Raises:
        ConfigError: for an unknown dtype or an unavailable device.
        CheckpointError: for a folder that is missing, damaged, of another format version, or whose weights do not match
            its configuration.
    """
    check_dtype(dtype)
    check_device(device)
    folder = Path(where)
    if not folder.is_dir() and ("/" not in str(where) or str(where).startswith((".", "/", "~"))):
        raise CheckpointError(f"no model at {str(where)!r}; give 'tiny', a model folder or a Hugging Face id")
    if (folder / CONFIG_FILE).exists():
        return _load_adapted(folder, device, dtype, merged)
    offline = not folder.is_dir() and not hub_has(str(where))
    if not (folder / SETTINGS_FILE).exists():
        from memfold.backbone.published import load_published

        published = load_published(where, device, dtype, offline)
        if published is not None:
            return published
    backbone = load_plain(where, device, dtype, offline)
    if (folder / SETTINGS_FILE).exists():
        _read_settings(backbone, folder)
        backbone.stored_roles = () if roles else role_files.stored_roles(folder)
        for role_folder in role_files.stored_roles(folder) if roles else ():
            role_files.restore_role(backbone, role_folder)
        backbone.stored_fingerprint = file_fingerprint(folder)
        backbone.folder = folder
    if (folder / ENCODER_FOLDER).is_dir():
        backbone.set_encoder(load_backbone(folder / ENCODER_FOLDER, device, dtype))
    backbone.check_chat_template()
    return backbone


def load_plain(
    where: str | Path, device: str, dtype: str, offline: bool = False, own: tuple[str, ...] = (), tied: bool = False
) -> Backbone:
    """Load a causal LM with its tokenizer, and nothing else; `own` and `tied` are as in `load_weights`.

    Raises:
        ConfigError, CheckpointError: as `load_backbone`.
    """
    if (folder := _local(where, offline)) is not None:
        check_files([folder], folder.name, device, DTYPES[dtype])
    try:
        model = load_weights(where, DTYPES[dtype], offline, own, tied)
        tokenizer = _load_tokenizer(where, offline)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"cannot load model {str(where)!r}: {_first_line(error)}") from error
    try:
        model.to(torch.device(device))  # type: ignore[arg-type]
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {device!r} cannot be used: {_first_line(error)}") from error
    name = Path(where).name if Path(where).is_dir() else str(where)
    check_tokenizer(tokenizer, model, name)
    backbone = Backbone(name, model.eval(), tokenizer)
    if backbone.fit is UNKNOWN:
        from memfold.backbone.parity import measured_fit

        backbone.fit = measured_fit(backbone)
    backbone.chat_template = "message" if tokenizer.chat_template else "plain"
    return backbone


def _local(where: str | Path, offline: bool) -> Path | None:
    """Return the folder of a model whose files are here; None if they are still to be downloaded."""
    if Path(where).is_dir():
        return Path(where)
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(str(where), "config.json") if offline else None
    return Path(cached).parent if isinstance(cached, str) else None


def _load_tokenizer(where: str | Path, offline: bool) -> PreTrainedTokenizerBase:
    """Load a tokenizer; that of a folder that memfold wrote is exactly its tokenizer.json."""
    if (Path(where) / SETTINGS_FILE).exists():
        return PreTrainedTokenizerFast.from_pretrained(str(where))  # type: ignore[no-any-return]
    from transformers import AutoTokenizer  # for some architectures, it replaces the pre-tokenizer of tokenizer.json

    return AutoTokenizer.from_pretrained(str(where), local_files_only=offline, trust_remote_code=False)


def _load_adapted(folder: Path, device: str, dtype: str, merged: bool) -> Backbone:
    """Load an adapter folder: the base model, the adapter, and the heads and settings if there are any."""
    described = (folder / SETTINGS_FILE).exists()
    if not described and (reasons := unusual_fields(folder)):
        return _load_foreign(folder, device, dtype, merged, reasons)
    backbone, stored = _load_base(folder, device, dtype)
    if described:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
        add_special_tokens(backbone, _added_tokens(tokenizer, backbone.tokenizer))
        backbone.tokenizer = tokenizer
    else:
        _take_tokenizer(backbone, folder)
    adapters.restore(backbone, folder, stored)
    backbone.name, backbone.folder = folder.name, folder
    if described:
        _read_settings(backbone, folder)
        backbone.stored_fingerprint = file_fingerprint(folder)
    if (folder / ENCODER_FOLDER).is_dir():
        backbone.set_encoder(load_backbone(folder / ENCODER_FOLDER, device, dtype, merged))
    if merged:
        adapters.merge(backbone, DTYPES[dtype])
    elif described:  # in float32, not rounded to `dtype` as by `_read_settings`
        backbone.heads.float().load_state_dict(load_file(folder / HEADS_FILE, device=str(backbone.device)))
    backbone.model.eval()
    return backbone


def _load_foreign(folder: Path, device: str, dtype: str, merged: bool, reasons: list[str]) -> Backbone:
    """Load an adapter that only `peft` can load; `reasons` are the fields with which memfold does not write any."""
    if not merged:
        raise CheckpointError(
            f"the adapter {folder} has {', '.join(reasons)}, so it cannot be trained further; merge it first (memfold "
            "export --merge) and name the result"
        )
    backbone, _ = _load_base(folder, device, dtype)
    _take_tokenizer(backbone, folder)
    merge_adapter(backbone, folder)
    backbone.name, backbone.folder, backbone.stored_fingerprint = folder.name, folder, None
    backbone.check_chat_template()
    return backbone


def _load_base(folder: Path, device: str, dtype: str) -> tuple[Backbone, adapters.Adapter]:
    """Load the base model of an adapter folder, and return it with the settings of the adapter."""
    described = (folder / SETTINGS_FILE).exists()
    stored = adapters.read_adapter(folder, read_settings(folder).get("adapter") if described else None)
    try:
        return load_backbone(stored.base, device, dtype), stored
    except CheckpointError as error:
        raise CheckpointError(f"cannot load the base model of adapter {folder}: {error}") from None


def _take_tokenizer(backbone: Backbone, folder: Path) -> None:
    """Use the tokenizer that another program stored beside an adapter, with its chat template, if there is one."""
    if not (folder / TOKENIZER_FILE).exists():
        return
    try:
        backbone.tokenizer = _load_tokenizer(folder, offline=True)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"the tokenizer of adapter {folder} cannot be loaded: {_first_line(error)}") from None
    if not backbone.trained:
        backbone.chat_template = "message" if backbone.tokenizer.chat_template else "plain"


def _added_tokens(tokenizer: PreTrainedTokenizerFast, base: PreTrainedTokenizerBase) -> list[str]:
    """Return the tokens that a tokenizer has in addition to those of its base, ordered by id."""
    base_vocabulary, vocabulary = base.get_vocab(), tokenizer.get_vocab()
    return sorted(vocabulary.keys() - base_vocabulary.keys(), key=vocabulary.__getitem__)


def save_backbone(
    backbone: Backbone, folder: Path, dtype: str = "float32", weights: Mapping[str, Tensor] | None = None
) -> None:
    """Write a model folder for `load_backbone`; `weights`, if given, are saved in place of the model's own."""
    folder.mkdir(parents=True, exist_ok=True)
    if backbone.base_adapter is None:
        values = backbone.model.state_dict() if weights is None else weights
        state = {name: value.to(DTYPES[dtype]) for name, value in adapters.without_roles(values).items()}
        role_files.save_roles(backbone, folder, values, DTYPES[dtype])
        backbone.model.save_pretrained(folder, state_dict=state)
    else:
        adapters.save_adapter(backbone, folder, dict(backbone.model.named_parameters()) if weights is None else weights)
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = dtype
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    backbone.tokenizer.save_pretrained(folder)
    heads = {name: value.to(DTYPES[dtype]).contiguous() for name, value in backbone.heads.state_dict().items()}
    save_file(heads, folder / HEADS_FILE)
    settings = {
        "format": SETTINGS_FORMAT,
        "chat_template": backbone.chat_template,
        "trained": backbone.trained,
        "published": backbone.published,
        "familiar_loss": backbone.familiar_loss,
        "familiar_characters": backbone.familiar_characters,
        "provenance": backbone.provenance,
    } | ({"reads": backbone.reads} if backbone.reads else {})
    if backbone.base_adapter is not None:
        base = backbone.base_adapter
        settings["adapter"] = {adapters.TRAINED_IN_FULL: base.full, "quantisation": base.quantisation}
    if backbone.encoder is not None:
        save_encoder(backbone.encoder, folder / ENCODER_FOLDER, dtype)
        settings["reads"] = backbone.reads = backbone.encoder.readable
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n")
    if DTYPES[dtype] == backbone.dtype:  # nothing was rounded: the folder holds the same model
        backbone.stored_fingerprint = file_fingerprint(folder)


def save_encoder(encoder: Backbone, folder: Path, dtype: str = "float32") -> None:
    """Write the encoder of a decoder to a folder.

    The files that the encoder was loaded from are linked or copied, so its fingerprint does not change.  If their data
    type is wider than `dtype`, the encoder is saved in `dtype` instead.
    """
    source = encoder.folder
    shutil.rmtree(folder, ignore_errors=True)
    if source is None or not (source / "config.json").exists() or _bytes_of(source) > DTYPES[dtype].itemsize:
        save_backbone(encoder, folder, dtype)
        encoder.stored_fingerprint = file_fingerprint(folder)
        return
    role_files = source.glob(f"{ROLES_FOLDER}/*/*")
    for path in (path for path in [*source.iterdir(), *role_files] if path.is_file()):
        copy = folder / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, copy)
        except OSError:  # no hard links between file systems
            shutil.copyfile(path, copy)


def _bytes_of(folder: Path) -> int:
    """Return the number of bytes per weight in a model folder."""
    name = json.loads((folder / "config.json").read_text()).get("dtype", "float32")
    return DTYPES.get(name, torch.float32).itemsize


def _read_settings(backbone: Backbone, folder: Path) -> None:
    settings = read_settings(folder)
    try:
        heads = load_file(folder / HEADS_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder} is damaged: {_first_line(error)}") from error
    if settings.get("format") != SETTINGS_FORMAT:
        raise CheckpointError(
            f"{folder / SETTINGS_FILE} has format {settings.get('format')}, this version of memfold reads format "
            f"{SETTINGS_FORMAT}; use the version that wrote it, or train the model again"
        )
    if settings["chat_template"] not in CHAT_TEMPLATES:
        raise CheckpointError(
            f"{folder / SETTINGS_FILE}: chat_template {settings['chat_template']!r} is not one of {CHAT_TEMPLATES}"
        )
    backbone.chat_template, backbone.trained = settings["chat_template"], settings["trained"]
    backbone.published = bool(settings.get("published"))
    backbone.familiar_loss, backbone.provenance = settings["familiar_loss"], settings["provenance"]
    backbone.familiar_characters = settings.get("familiar_characters")
    backbone.reads = tuple(settings.get("reads", ()))
    for system in sorted({name.partition(".")[0] for name in heads}):
        tensors = {name.partition(".")[2]: weight for name, weight in heads.items() if name.startswith(f"{system}.")}
        try:
            head = registry.system_class(system).read_head(tensors)
        except (CheckpointError, ConfigError) as error:
            raise CheckpointError(f"{folder / HEADS_FILE}: {error}") from None
        backbone.heads[system] = head.to(device=backbone.device, dtype=backbone.dtype)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
