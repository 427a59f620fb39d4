"""A model of its own that encodes documents, where it is not the backbone that also reads their slots.

It may be smaller: only the tokenizer must be the same, since groups are counted in the backbone's tokens.  In a trained
model folder it is the folder `encoder`, an ordinary Hugging Face folder without a tokenizer; there it belongs to what
the fingerprint covers.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from memfold.core.errors import CheckpointError

FOLDER = "encoder"


def load_encoder(folder: Path, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """The model in a folder, without what turns hidden states into tokens.

    Raises:
        CheckpointError: for a folder that is missing or damaged.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"no encoder at {folder}; give a model folder or a run folder")
    try:
        model = AutoModel.from_pretrained(str(folder), dtype=dtype, attn_implementation="sdpa")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"cannot load encoder {folder}: {str(error).strip().splitlines()[0]}") from error
    encoder: PreTrainedModel = model.to(device).eval()
    return encoder


def save_encoder(encoder: PreTrainedModel, folder: Path, dtype: torch.dtype) -> None:
    """Write the folder `encoder` inside a model folder."""
    state = {name: value.to(dtype) for name, value in encoder.state_dict().items()}
    encoder.save_pretrained(folder / FOLDER, state_dict=state)


def check_encoder(encoder: PreTrainedModel, where: str, own: PreTrainedTokenizerBase,
                  tokenizer: PreTrainedTokenizerBase) -> None:  # fmt: skip
    """Refuse an encoder for other tokens than those of the backbone (`tokenizer`); `own` is its tokenizer.

    Tokens that only one side has, such as those around slots, must lie behind all that both have.

    Raises:
        CheckpointError: naming the first token that differs, or both sizes.
    """
    ours, theirs = tokenizer.get_vocab(), own.get_vocab()
    common = ours.keys() & theirs.keys()
    for token in sorted(common, key=ours.__getitem__):
        if ours[token] != theirs[token]:
            raise CheckpointError(
                f"encoder {where} reads other tokens: {token!r} is {theirs[token]} to it and {ours[token]} to the "
                "model; both need one tokenizer"
            )
    rows = len(encoder.get_input_embeddings().weight)  # type: ignore[arg-type]
    if len(common) < min(len(ours), len(theirs)) or rows <= max(ours.values()):
        raise CheckpointError(
            f"encoder {where} reads other tokens: {len(common)} of the model's {len(ours)} are among its "
            f"{len(theirs)}, with embeddings for {rows}; both need one tokenizer"
        )
