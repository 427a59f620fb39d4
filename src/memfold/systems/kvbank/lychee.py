"""Loads LycheeMemory weights in their published layout.

The folder is a Qwen2 model with one embedding for memory tokens and projections of their own beside the model's; the
names of both contain `lychee_memory`.  There are no adapters: the same weights compress and read.  The gate was not
published, so every block is opened.  The block stands before the whole prompt, with keys that are not rotated.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from memfold.backbone.published import Source, check_options, read_json, read_tensors
from memfold.core.errors import CheckpointError
from memfold.systems.kvbank.settings import HEAD, PAPER, Letter
from memfold.systems.shared.notes import fitting_note

if TYPE_CHECKING:
    from torch import Tensor

    from memfold.backbone.model import Backbone
    from memfold.systems.kvbank.head import KvbankHead

MARK = "lychee_memory"
EMBEDDING = f"model.{MARK}_embed_tokens.weight"
UNUSED = ("similarity_head.",)  # no part of compressing, reading or the loop
PROJECTION = re.compile(rf"model\.layers\.(\d+)\.self_attn\.{MARK}_([qkvo])_proj\.(weight|bias)")
LETTERS = get_args(Letter)
WINDOW = 1024  # tokens, of the program itself where a configuration has none
WINDOWS = 2  # of a chunk: the release reads chunks of 4,096 tokens in windows of 2,048
REQUIRED = {"attn": "full-coverage", "pos": "interleave", "sink_size": 0, "parallel_window": 1, "attend_prev": True}


class Lychee:
    """The layout; see the module docstring."""

    marker = "config.json"
    folders: tuple[str, ...] = ()
    system = "kvbank"

    def matches(self, content: Mapping[str, Any]) -> bool:
        """Return whether a configuration has settings of memory tokens."""
        return any(name.startswith(f"{MARK}_") for name in content)

    def load(self, source: Source) -> Backbone:
        """Load the model with the head and the record of a KV memory bank."""
        from memfold.backbone.folder import load_plain

        config = read_json(source.folder / self.marker)
        record = self.record(source.name, source.folder)
        backbone = load_plain(source.folder, source.device, source.dtype, own=(MARK, *UNUSED))
        backbone.name = source.name
        backbone.heads[HEAD] = self._head(backbone, config, read_tensors(source.folder, MARK))
        backbone.trained, backbone.published = {self.system: record}, True
        return backbone

    def record(self, name: str, folder: Path) -> dict[str, Any]:
        """Return what the weights of a model were trained for; `name` is for messages.

        Raises:
            CheckpointError: for options that are computed in another way.
        """
        config = read_json(folder / self.marker)
        check_options(name, config, {f"{MARK}_{option}": value for option, value in REQUIRED.items()})
        window = _whole_number(name, config, "window", config.get(f"{MARK}_window", WINDOW))
        stride = config.get(f"{MARK}_stride", window)
        if window != stride:
            raise CheckpointError(
                f"model {name!r} has {MARK}_stride = {stride} and {MARK}_window = {window}; windows that overlap are "
                "not supported"
            )
        ratios = config.get(f"{MARK}_ratio", PAPER.ratio)
        ratios = [
            _whole_number(name, config, "ratio", each) for each in (ratios if isinstance(ratios, list) else [ratios])
        ]
        return {
            "ratios": sorted(ratios),
            "compressor": "trained",
            "window": window,
            "chunk": WINDOWS * window,
            "borders": "exact",
            "positions": "unrotated",
            "opening": False,
            "adapters": False,
            "gate": "open",
            "reading": "note",
            "note": fitting_note(config.get("max_position_embeddings", sys.maxsize)),
            "prompts": "tagged",
        }

    def _head(self, backbone: Backbone, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> KvbankHead:
        """Return the memory token and its projections.

        A part that the file lacks begins as the model's own, as in the original program: the embedding as that of the
        end token, or of the beginning token if the configuration says so; a projection, if a letter lacks in any layer,
        as that of the model in all of them.
        """
        import torch

        from memfold.systems.kvbank.head import KvbankHead
        from memfold.systems.kvbank.projections import own_projections

        letters = config.get(f"{MARK}_param", [])
        if not isinstance(letters, list) or not set(letters) <= set(LETTERS):
            raise CheckpointError(
                f"model {backbone.name!r} has {MARK}_param = {letters!r}; only a list of {', '.join(LETTERS)} is "
                "supported"
            )
        own = own_projections(backbone, letters)
        head = KvbankHead(backbone.hidden_size, own)
        with torch.no_grad():
            head.token.copy_(tensors.pop(EMBEDDING)[0] if EMBEDDING in tensors else _first_value(backbone, config))
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


def _whole_number(name: str, config: Mapping[str, Any], option: str, value: object) -> int:
    """Return an option that counts tokens.

    Raises:
        CheckpointError: for anything but a positive whole number.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(
            f"model {name!r} has {MARK}_{option} = {config[f'{MARK}_{option}']!r}; only whole numbers above 0 are "
            "supported"
        )
    return value


def _first_value(backbone: Backbone, config: Mapping[str, Any]) -> Tensor:
    """Return the embedding [d] that the memory token begins with."""
    kind = "bos" if config.get(f"{MARK}_embed_init") == "bos" else "eos"
    token = getattr(backbone.model.config, f"{kind}_token_id", None)
    token = token[0] if isinstance(token, list) else token
    table: Any = backbone.model.get_input_embeddings()
    if token is None or not 0 <= token < len(table.weight):
        raise CheckpointError(
            f"model {backbone.name!r} has no weights {EMBEDDING}, and {kind}_token_id = {token} in its configuration, "
            "whose embedding would stand for them; download all of its files"
        )
    return table.weight[token]  # type: ignore[no-any-return]


LAYOUT = Lychee()
