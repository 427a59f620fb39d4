"""A backbone: an unmodified causal LM of `transformers`, its tokenizer, and the heads that memory systems add to it.

A model folder is an ordinary Hugging Face folder plus `memfold.json` (prompt frame, trained settings of each system,
provenance) and `heads.safetensors` (for `pooled`: the projection).  A folder without those is a plain causal LM, good
for the systems that read text; one with an adapter (`memfold.backbone.adapter`) names the model that it stands on.  A
decoder that was trained alone, or whose documents a model of its own encodes, has its encoder in the folder `encoder`
beside it.  Left out: training state, which belongs to checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from memfold.backbone import adapter
from memfold.backbone.adapter import Adapter
from memfold.backbone.tokens import add_tokens
from memfold.backbone.weights import load_weights
from memfold.core import registry
from memfold.core.errors import CheckpointError, ConfigError
from memfold.core.prompt import FRAMES, Frame
from memfold.core.system import SLOT

START, END = "<MEM_START>", "<MEM_END>"
SETTINGS_FILE, HEADS_FILE = "memfold.json", "heads.safetensors"
ENCODER_FOLDER = "encoder"
SETTINGS_FORMAT = 1
transformers_logging.disable_progress_bar()  # loading and saving a model is one step of ours, not theirs to report

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class Backbone:
    """The model with everything that a system needs of it.

    `trained` maps a system's name to the settings it was trained with (ratios, wrapper, positions, ...).
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    frame: Frame = "flat"
    heads: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    trained: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    familiar_loss: float | None = None  # nats per token above which a text is unlike the training text
    stored_fingerprint: str | None = None
    adapter: Adapter | None = None  # LoRA matrices beside the weights of a base, while they are not merged
    encoder: Backbone | None = None  # other weights that make the slots which this decoder reads
    reads: tuple[str, ...] = ()  # fingerprints of the encoders whose memories it was trained to read; empty: its own
    folder: Path | None = None  # where its weights lie as they are
    body: Any = None  # what runs hidden states; replaced by a compiled form in training
    reads_slots: ClassVar[bool] = True  # not where the weights are behind an address

    def __post_init__(self) -> None:
        self.body = self.body or self.model.base_model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.model.dtype

    @property
    def precision(self) -> str:
        """The name of `dtype`."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def identity(self) -> str:
        """What tells this model from every other."""
        return self.fingerprint()

    @property
    def hidden_size(self) -> int:
        """Of embeddings, hidden states and slots."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def compressor(self) -> Backbone:
        """The weights that make slots: its encoder's where the decoder was trained alone, else its own.

        Raises:
            CheckpointError: when the encoder that it reads is not at hand.
        """
        if self.encoder is None and self.reads:
            raise CheckpointError(
                f"model {self.name!r} reads memories of the encoder {self.reads[0][:16]}, which is not in its folder; "
                "fold with that model, or put it there as the folder 'encoder'"
            )
        return self.encoder or self

    @property
    def readable(self) -> tuple[str, ...]:
        """Fingerprints of the encoders whose memories it reads; what it folds itself has the first."""
        return self.reads or (self.fingerprint(),)

    @property
    def window(self) -> int:
        """The most positions that a reader of plain text may use."""
        return int(self.model.config.get_text_config().max_position_embeddings)

    @property
    def kv_bytes_per_token(self) -> int:
        """What a full key/value cache takes for one token in 16-bit numbers."""
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * 2 * config.num_hidden_layers * heads * size)

    @property
    def end_token(self) -> int:
        """The token that begins a sequence of text and ends a reply."""
        return int(self.tokenizer.eos_token_id)

    def encode(self, text: str) -> list[int]:
        """Token ids without special tokens added."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def tokenize(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids and their offsets in characters."""
        output = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(output["input_ids"]), [tuple(pair) for pair in output["offset_mapping"]]

    def decode(self, tokens: Sequence[int]) -> str:
        """Text without special tokens."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def token_id(self, token: str) -> int:
        """The id of one special token.

        Raises:
            CheckpointError: when the tokenizer does not have it.
        """
        index = self.tokenizer.convert_tokens_to_ids(token)
        if not isinstance(index, int) or index == self.tokenizer.unk_token_id:
            raise CheckpointError(f"model {self.name!r} has no token {token!r}; train it for this system first")
        return index

    def embed(self, tokens: Sequence[int]) -> Tensor:
        """[t, d]"""
        ids = torch.tensor(list(tokens), dtype=torch.long, device=self.device)
        return self.model.get_input_embeddings()(ids)  # type: ignore[no-any-return]

    def embed_rows(self, tokens: Tensor, slots: Sequence[Tensor]) -> Tensor:
        """Embeddings [b, t, d] of rows [b, t]: the model's own for tokens, `slots` where `SLOT` stands."""
        embeddings: Tensor = self.model.get_input_embeddings()(tokens.clamp(min=0))
        if not slots:
            return embeddings
        return embeddings.masked_scatter((tokens == SLOT)[..., None], torch.cat(list(slots)).to(embeddings))

    def hidden(self, embeddings: Tensor, positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Final hidden states [b, t, d]; `mask` is [b, 1, t, t] with True where a position may be read."""
        if mask is not None and self.model.config._attn_implementation == "eager":  # it adds the mask to the scores
            dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else embeddings.dtype
            mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(torch.bfloat16).min)
        output = self.body(inputs_embeds=embeddings, position_ids=positions, attention_mask=mask, use_cache=False)
        return output.last_hidden_state  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., vocabulary]"""
        output: Tensor = self.model.get_output_embeddings()(hidden)
        return output

    def fingerprint(self) -> str:
        """SHA-256 over configuration, tokenizer and weights, those of a separate encoder left out."""
        if self.stored_fingerprint is None:
            self.stored_fingerprint = _fingerprint(self)
        return self.stored_fingerprint

    def set_encoder(self, encoder: Backbone) -> None:
        """Read memories of other weights, which stay as they are."""
        for _, parameter in encoder.parameters():
            parameter.requires_grad_(False)
        self.encoder, self.reads = encoder, (encoder.fingerprint(),)

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        """All weights by name, those of heads under `heads.`; not those of a separate encoder."""
        return [*self.model.named_parameters(), *((f"heads.{n}", p) for n, p in self.heads.named_parameters())]


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
    if (folder / adapter.CONFIG_FILE).exists():
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
        backbone.frame = "chatml"
    if (folder / SETTINGS_FILE).exists():
        _read_settings(backbone, folder)
        backbone.stored_fingerprint = _file_fingerprint(folder)
        backbone.folder = folder
    if (folder / ENCODER_FOLDER).is_dir():
        backbone.set_encoder(load_backbone(folder / ENCODER_FOLDER, device, dtype))
    return backbone


def _load_adapted(folder: Path, device: str, dtype: str, merged: bool) -> Backbone:
    """The base of an adapter, the adapter upon it, and what else the folder holds."""
    described = (folder / SETTINGS_FILE).exists()
    stored = adapter.read_adapter(folder, _settings(folder).get("adapter") if described else None)
    try:
        backbone = load_backbone(stored.base, device, dtype)
    except CheckpointError as error:
        raise CheckpointError(f"{folder} is an adapter of a model that cannot be loaded: {error}") from None
    if described:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
        if tokenizer.convert_tokens_to_ids(START) is not None:
            add_wrapper_tokens(backbone)
        backbone.tokenizer = tokenizer
    adapter.restore(backbone, folder, stored)
    backbone.name, backbone.folder = folder.name, folder
    if described:
        _read_settings(backbone, folder)
        backbone.stored_fingerprint = _file_fingerprint(folder)
    if (folder / ENCODER_FOLDER).is_dir():
        backbone.set_encoder(load_backbone(folder / ENCODER_FOLDER, device, dtype))
    if merged:
        adapter.merge(backbone, DTYPES[dtype])
    elif described:  # in the numbers that they were stored in
        backbone.heads.float().load_state_dict(load_file(folder / HEADS_FILE, device=str(backbone.device)))
    backbone.model.eval()
    return backbone


def add_wrapper_tokens(backbone: Backbone) -> None:
    """Give a model the two tokens that wrap slots, unless it has them."""
    if add_tokens(backbone.tokenizer, backbone.model, (START, END)):
        backbone.stored_fingerprint = None


def save_backbone(
    backbone: Backbone, folder: Path, dtype: str = "float32", weights: Mapping[str, Tensor] | None = None
) -> None:
    """Write a model folder that `load_backbone` reads back; `weights` stand for the model's own where given."""
    folder.mkdir(parents=True, exist_ok=True)
    if backbone.adapter is None:
        values = backbone.model.state_dict() if weights is None else weights
        state = {name: value.to(DTYPES[dtype]) for name, value in values.items()}
        backbone.model.save_pretrained(folder, state_dict=state)
    else:
        adapter.save_adapter(backbone, folder, dict(backbone.model.named_parameters()) if weights is None else weights)
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = dtype
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    backbone.tokenizer.save_pretrained(folder)
    heads = {name: value.to(DTYPES[dtype]).contiguous() for name, value in backbone.heads.state_dict().items()}
    save_file(heads, folder / HEADS_FILE)
    settings = {
        "format": SETTINGS_FORMAT,
        "frame": backbone.frame,
        "trained": backbone.trained,
        "familiar_loss": backbone.familiar_loss,
        "provenance": backbone.provenance,
    } | ({"reads": backbone.reads} if backbone.reads else {})
    if backbone.adapter is not None:
        settings["adapter"] = {"full": backbone.adapter.full, "quantisation": backbone.adapter.quantisation}
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
    folder.mkdir(parents=True)
    for path in (path for path in stored.iterdir() if path.is_file()):
        try:
            os.link(path, folder / path.name)
        except OSError:  # another file system
            shutil.copyfile(path, folder / path.name)


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
    if settings["frame"] not in FRAMES:
        raise CheckpointError(f"{folder / SETTINGS_FILE}: frame {settings['frame']!r} is not one of {FRAMES}")
    backbone.frame, backbone.trained = settings["frame"], settings["trained"]
    backbone.familiar_loss, backbone.provenance = settings["familiar_loss"], settings["provenance"]
    backbone.reads = tuple(settings.get("reads", ()))
    for system in sorted({name.partition(".")[0] for name in heads}):
        own = {name.partition(".")[2]: weight for name, weight in heads.items() if name.startswith(f"{system}.")}
        try:
            head = registry.load("head", system, registry.HEADS)(own)
        except CheckpointError as error:
            raise CheckpointError(f"{folder / HEADS_FILE}: {error}") from None
        backbone.heads[system] = head.to(device=backbone.device, dtype=backbone.dtype)


def _fingerprint(backbone: Backbone) -> str:
    digest = hashlib.sha256(json.dumps(backbone.model.config.to_dict(), sort_keys=True, default=str).encode())
    digest.update(backbone.tokenizer.backend_tokenizer.to_str().encode())
    for _, weight in sorted(backbone.parameters(), key=lambda pair: pair[0]):
        digest.update(weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _file_fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), folder / "config.json", folder / "tokenizer.json"]):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
