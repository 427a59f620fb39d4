"""Loads LycheeMemory weights in their published layout.

The folder is a Qwen2 model with one embedding for memory tokens and projections of their own beside the model's; the
names of both contain `lychee_memory`.  There are no adapters: the same weights compress and read.  The gate was not
published, so every block is opened.  The block stands before the whole prompt, with keys that are not rotated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from memfold.backbone.published import Source, check_options, read_json, read_tensors
from memfold.core.errors import CheckpointError
from memfold.systems.kvbank.settings import HEAD, KvbankFold

if TYPE_CHECKING:
    from torch import Tensor

    from memfold.backbone.model import Backbone
    from memfold.systems.kvbank.head import KvbankHead

MARK = "lychee_memory"
EMBEDDING = f"model.{MARK}_embed_tokens.weight"
UNUSED = ("similarity_head.",)  # no part of compressing, reading or the loop
PROJECTION = re.compile(rf"model\.layers\.(\d+)\.self_attn\.{MARK}_([qkvo])_proj\.(weight|bias)")
WINDOWS = 2  # of a chunk: the release reads chunks of 4,096 tokens in windows of 2,048
REQUIRED = {"attn": "full-coverage", "pos": "interleave", "sink_size": 0, "parallel_window": 1}
NOTE = 1024  # tokens


class Lychee:
    """The layout; see the module docstring."""

    marker = "config.json"
    folders: tuple[str, ...] = ()
    system = "kvbank"

    def matches(self, content: Mapping[str, Any]) -> bool:
        """Return whether a configuration has settings of memory tokens."""
        return f"{MARK}_window" in content

    def load(self, source: Source) -> Backbone:
        """Load the model with the head and the record of a KV memory bank."""
        from memfold.backbone.folder import load_plain

        config = read_json(source.folder / self.marker)
        record = self._record(config, source)
        backbone = load_plain(source.folder, source.device, source.dtype, own=(MARK, *UNUSED))
        backbone.name = source.name
        backbone.heads[HEAD] = self._head(backbone, config, read_tensors(source.folder, MARK))
        backbone.trained, backbone.published = {self.system: record}, True
        return backbone

    def _record(self, config: Mapping[str, Any], source: Source) -> dict[str, Any]:
        """Return what the weights were trained for.

        Raises:
            CheckpointError: for options that are computed in another way.
        """
        check_options(source.name, config, {f"{MARK}_{name}": value for name, value in REQUIRED.items()})
        window, stride = config[f"{MARK}_window"], config.get(f"{MARK}_stride", config[f"{MARK}_window"])
        if window != stride:
            raise CheckpointError(
                f"model {source.name!r} has {MARK}_stride = {stride} and {MARK}_window = {window}; windows that "
                "overlap are not supported"
            )
        ratios = config.get(f"{MARK}_ratio", [KvbankFold().ratio])
        return {
            "ratios": sorted(ratios if isinstance(ratios, list) else [ratios]),
            "compressor": "trained",
            "window": window,
            "chunk": WINDOWS * window,
            "borders": "exact",
            "positions": "unrotated",
            "opening": False,
            "adapters": False,
            "gate": "open",
            "reading": "note",
            "note": NOTE,
            "prompts": "tagged",
        }

    def _head(self, backbone: Backbone, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> KvbankHead:
        """Return the memory token and its projections.

        A part that the file lacks begins as the model's own, as in the original program: the embedding as that of the
        end token, a projection, if a letter lacks in any layer, as that of the model in all of them.
        """
        import torch

        from memfold.systems.kvbank.head import KvbankHead
        from memfold.systems.kvbank.projections import own_projections

        own = own_projections(backbone, config.get(f"{MARK}_param", []))
        head = KvbankHead(backbone.hidden_size, own)
        table: Any = backbone.model.get_input_embeddings().weight
        first = backbone.model.config.eos_token_id
        first = first[0] if isinstance(first, list) else first
        with torch.no_grad():
            head.token.copy_(tensors.pop(EMBEDDING, table[first][None])[0])
        stored: dict[str, dict[str, Tensor]] = {}
        for name in list(tensors):
            if match := PROJECTION.fullmatch(name):
                stored.setdefault(match[2], {})[f"{match[1]}.{match[3]}"] = tensors.pop(name)
        unused = sorted([*tensors, *(letter for letter in stored if letter not in own)])
        if unused:
            raise CheckpointError(f"model {backbone.name!r} has weights that its configuration does not name: {unused}")
        for letter, layers in own.items():
            if layers.state_dict().keys() == stored.get(letter, {}).keys():
                layers.load_state_dict(stored[letter])
        return head.to(device=backbone.device, dtype=backbone.dtype)


LAYOUT = Lychee()
