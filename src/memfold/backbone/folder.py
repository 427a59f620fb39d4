"""A model folder: how a backbone is loaded and kept.

It is an ordinary Hugging Face folder plus `memfold.json` (chat template, what was trained for each system, provenance),
`heads.safetensors` (what systems have added) and `adapters/` (their roles).  A folder without those is a plain causal
LM, good for the systems that read text; one with an adapter (`memfold.backbone.adapters`) names the model that it
stands on.  A decoder that was trained alone, or whose documents another model encodes, has its encoder in the folder
`encoder` in it.
Left out: training state, which belongs to checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from memfold.backbone import adapters
from memfold.backbone.model import DTYPES, Backbone
from memfold.backbone.tokens import add_special_tokens
from memfold.backbone.weights import load_weights
from memfold.core import registry
from memfold.core.errors import CheckpointError, ConfigError
from memfold.core.prompt import CHAT_TEMPLATES

SETTINGS_FILE, HEADS_FILE = "memfold.json", "heads.safetensors"
ENCODER_FOLDER = "encoder"
SETTINGS_FORMAT = 2
transformers_logging.disable_progress_bar()  # loading and saving a model is one step of ours, not theirs to report


def load_backbone(where: str | Path, device: str = "cpu", dtype: str = "float32", merged: bool = True) -> Backbone:
    """Load a model folder (or a Hugging Face id), with heads where it has them.

    A folder with an adapter gives the model that both make together; with `merged` False the adapter stays beside its
    base, in the numbers that it was stored in, to be trained further.

    Raises:
        ConfigError: for an unknown dtype or an unavailable device.
        CheckpointError: for a folder that is missing, damaged, written by another format version, or whose weights are
            not those of its configuration.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is unknown; allowed: {', '.join(DTYPES)}")
    folder = Path(where)
    if not folder.is_dir() and ("/" not in str(where) or str(where).startswith((".", "/", "~"))):
        raise CheckpointError(f"no model at {str(where)!r}; give 'tiny', a model folder or a Hugging Face id")
    if (folder / adapters.CONFIG_FILE).exists():
        return _load_adapted(folder, device, dtype, merged)
    try:
        model = load_weights(where, DTYPES[dtype])
        # AutoTokenizer gives some architectures a pre-tokenizer of its own in place of the one in tokenizer.json
        tokenizers = PreTrainedTokenizerFast if (folder / SETTINGS_FILE).exists() else AutoTokenizer
        tokenizer = tokenizers.from_pretrained(str(where))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"cannot load model {str(where)!r}: {_first_line(error)}") from error
    try:
        model.to(torch.device(device))  # type: ignore[arg-type]
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {device!r} cannot be used: {_first_line(error)}") from error
    backbone = Backbone(folder.name if folder.is_dir() else str(where), model.eval(), tokenizer)
    if "<|im_start|>" in str(tokenizer.chat_template or ""):
        backbone.chat_template = "chatml"
    if (folder / SETTINGS_FILE).exists():
        _read_settings(backbone, folder)
        adapters.restore_roles(backbone, folder)
        backbone.stored_fingerprint = _file_fingerprint(folder)
        backbone.folder = folder
    if (folder / ENCODER_FOLDER).is_dir():
        backbone.set_encoder(load_backbone(folder / ENCODER_FOLDER, device, dtype))
    return backbone


def _load_adapted(folder: Path, device: str, dtype: str, merged: bool) -> Backbone:
    """The base of an adapter, the adapter upon it, and what else the folder holds."""
    described = (folder / SETTINGS_FILE).exists()
    stored = adapters.read_adapter(folder, _settings(folder).get("adapter") if described else None)
    try:
        backbone = load_backbone(stored.base, device, dtype)
    except CheckpointError as error:
        raise CheckpointError(f"{folder} is an adapter of a model that cannot be loaded: {error}") from None
    if described:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
        add_special_tokens(backbone, _added_tokens(tokenizer, backbone.tokenizer))
        backbone.tokenizer = tokenizer
    adapters.restore(backbone, folder, stored)
    backbone.name, backbone.folder = folder.name, folder
    if described:
        _read_settings(backbone, folder)
        backbone.stored_fingerprint = _file_fingerprint(folder)
    if (folder / ENCODER_FOLDER).is_dir():
        backbone.set_encoder(load_backbone(folder / ENCODER_FOLDER, device, dtype, merged))
    if merged:
        adapters.merge(backbone, DTYPES[dtype])
    elif described:  # in the numbers that they were stored in
        backbone.heads.float().load_state_dict(load_file(folder / HEADS_FILE, device=str(backbone.device)))
    backbone.model.eval()
    return backbone


def _added_tokens(tokenizer: PreTrainedTokenizerFast, base: PreTrainedTokenizerBase) -> list[str]:
    """The tokens that a tokenizer has beyond those of its base, in the order of their ids."""
    known, vocabulary = base.get_vocab(), tokenizer.get_vocab()
    return sorted(vocabulary.keys() - known.keys(), key=vocabulary.__getitem__)


def save_backbone(
    backbone: Backbone, folder: Path, dtype: str = "float32", weights: Mapping[str, Tensor] | None = None
) -> None:
    """Write a model folder that `load_backbone` reads back; `weights` stand for the model's own where given."""
    folder.mkdir(parents=True, exist_ok=True)
    if backbone.base_adapter is None:
        values = backbone.model.state_dict() if weights is None else weights
        state = {name: value.to(DTYPES[dtype]) for name, value in adapters.without_roles(values).items()}
        adapters.save_roles(backbone, folder, values)
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
        "familiar_loss": backbone.familiar_loss,
        "provenance": backbone.provenance,
    } | ({"reads": backbone.reads} if backbone.reads else {})
    if backbone.base_adapter is not None:
        base = backbone.base_adapter
        settings["adapter"] = {adapters.TRAINED_IN_FULL: base.full, "quantisation": base.quantisation}
    if backbone.encoder is not None:
        save_encoder(backbone.encoder, folder / ENCODER_FOLDER, dtype)
        settings["reads"] = backbone.reads = backbone.encoder.readable
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n")
    if DTYPES[dtype] == backbone.dtype:  # the folder and this model are one encoder
        backbone.stored_fingerprint = _file_fingerprint(folder)


def save_encoder(encoder: Backbone, folder: Path, dtype: str = "float32") -> None:
    """Write the encoder of a decoder.

    The very files that it was loaded from, so that its fingerprint stays, unless they are wider than `dtype`.
    """
    stored = encoder.folder
    shutil.rmtree(folder, ignore_errors=True)
    if stored is None or not (stored / "config.json").exists() or _bytes_of(stored) > DTYPES[dtype].itemsize:
        save_backbone(encoder, folder, dtype)
        encoder.stored_fingerprint = _file_fingerprint(folder)
        return
    roles = stored.glob(f"{adapters.ROLES_FOLDER}/*/*")
    for path in (path for path in [*stored.iterdir(), *roles] if path.is_file()):
        copy = folder / path.relative_to(stored)
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, copy)
        except OSError:  # another file system
            shutil.copyfile(path, copy)


def _bytes_of(folder: Path) -> int:
    """How wide the numbers of a model folder are."""
    name = json.loads((folder / "config.json").read_text()).get("dtype", "float32")
    return DTYPES.get(name, torch.float32).itemsize


def _settings(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / SETTINGS_FILE).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} is damaged: {_first_line(error)}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{folder} is damaged: {SETTINGS_FILE} is no object")
    return found


def _read_settings(backbone: Backbone, folder: Path) -> None:
    settings = _settings(folder)
    try:
        heads = load_file(folder / HEADS_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder} is damaged: {_first_line(error)}") from error
    if settings.get("format") != SETTINGS_FORMAT:
        raise CheckpointError(
            f"{folder / SETTINGS_FILE} has format {settings.get('format')}, this memfold reads {SETTINGS_FORMAT}"
        )
    if settings["chat_template"] not in CHAT_TEMPLATES:
        raise CheckpointError(
            f"{folder / SETTINGS_FILE}: chat_template {settings['chat_template']!r} is not one of {CHAT_TEMPLATES}"
        )
    backbone.chat_template, backbone.trained = settings["chat_template"], settings["trained"]
    backbone.familiar_loss, backbone.provenance = settings["familiar_loss"], settings["provenance"]
    backbone.reads = tuple(settings.get("reads", ()))
    for system in sorted({name.partition(".")[0] for name in heads}):
        own = {name.partition(".")[2]: weight for name, weight in heads.items() if name.startswith(f"{system}.")}
        try:
            head = registry.system_class(system).read_head(own)
        except (CheckpointError, ConfigError) as error:
            raise CheckpointError(f"{folder / HEADS_FILE}: {error}") from None
        backbone.heads[system] = head.to(device=backbone.device, dtype=backbone.dtype)


def _file_fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    files = [*folder.glob("*.safetensors"), folder / "config.json", folder / "tokenizer.json"]
    for path in sorted([*files, *folder.glob(f"{adapters.ROLES_FOLDER}/*/*.safetensors")]):
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
