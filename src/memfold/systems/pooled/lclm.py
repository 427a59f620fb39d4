"""Loads LCLM weights in their published layout.

The folder has a decoder, an encoder and an adapter in subfolders.  The encoder, a model without an output layer, reads
windows of tokens on their own.  The mean of each group of its hidden states goes through the adapter, and the decoder
reads the results in place of the text, between two special tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memfold.backbone.published import Source, check_options, read_json, read_tensors
from memfold.core.errors import CheckpointError
from memfold.systems.pooled.settings import HEAD

if TYPE_CHECKING:
    from torch import Tensor

    from memfold.backbone.model import Backbone

DECODER, ENCODER, ADAPTER = "decoder", "encoder", "adapter"
PROCESSOR = "processor_config.json"
ADAPTER_FILE = "adapter.safetensors"
NAMES = {"norm": "norm", "fc1": "inner", "fc2": "outer"}  # of the adapter's parts, here and there
REQUIRED = {"pooling": "mean", "encoder_mask_type": "causal", "boundary_overlap": 0, "adapter_type": "mlp"}
MARKS = {"memory_start": "<|memory_start|>", "memory_end": "<|memory_end|>"}
CHUNK = 4096
PENALTY = 1.1  # of tokens that a reply already has, in the demonstration of the authors


class Lclm:
    """The layout; see the module docstring."""

    marker = "model_config.json"
    folders: tuple[str, ...] = (DECODER, ENCODER, ADAPTER)
    system = "pooled"

    def matches(self, content: Mapping[str, Any]) -> bool:
        """Return whether a file describes a compressor."""
        return {"compression_ratio", "encoder_window_size"} <= content.keys()

    def load(self, source: Source) -> Backbone:
        """Load the decoder, with the encoder and the record of pooled memory."""
        from memfold.backbone.folder import load_plain
        from memfold.backbone.model import DTYPES
        from memfold.backbone.model_files import check_files
        from memfold.systems.pooled.head import read_head

        folder = source.folder
        for name in self.folders:
            if not (folder / name).is_dir():
                raise CheckpointError(f"model {source.name!r} has no folder {name!r}; download all of its files")
        record = self.record(source.name, folder)
        check_files([folder / DECODER, folder / ENCODER], source.name, source.device, DTYPES[source.dtype])
        backbone = load_plain(folder / DECODER, source.device, source.dtype)
        encoder = load_plain(folder / ENCODER, source.device, source.dtype, tied=True)
        vocabulary = backbone.tokenizer.get_vocab()
        missing = [record[name] for name in ("start_token", "end_token") if record[name] not in vocabulary]
        if missing:
            raise CheckpointError(f"the tokenizer of model {source.name!r} has no token {', '.join(missing)}")
        head = read_head(_renamed(read_tensors(folder / ADAPTER, "", ADAPTER_FILE)))
        encoder.heads[HEAD] = head.to(device=encoder.device, dtype=encoder.dtype)
        backbone.set_encoder(encoder)
        backbone.name, backbone.trained, backbone.published = source.name, {self.system: record}, True
        return backbone

    def record(self, name: str, folder: Path) -> dict[str, Any]:
        """Return what the weights of a model were trained for; `name` is for messages.

        Raises:
            CheckpointError: for options that are computed in another way.
        """
        config = read_json(folder / self.marker)
        check_options(name, config, REQUIRED)
        processor = folder / PROCESSOR
        marks = MARKS | (read_json(processor) if processor.exists() else {})
        window = config["encoder_window_size"]
        return {
            "ratios": [config["compression_ratio"]],
            "window": window,
            "mask": "causal",
            "projection": "norm_mlp",
            "wrapper": "span",
            "positions": "consecutive",
            "chunk": max(1, CHUNK // window) * window,
            "start_token": marks["memory_start"],
            "end_token": marks["memory_end"],
            "repetition_penalty": PENALTY,
        }


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of an adapter under the names that they have in a head."""
    parts = {name: name.partition(".") for name in tensors}
    return {f"projection.{NAMES.get(parts[name][0], name)}.{parts[name][2]}": value for name, value in tensors.items()}


LAYOUT = Lclm()
