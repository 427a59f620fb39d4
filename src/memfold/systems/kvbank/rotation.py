"""The rotary embedding of keys, applied and undone outside of a forward pass.

A cache holds rotated keys.  Undoing the rotation of a key gives what the key projection computed, which depends on the
position of the text only through attention, so that it can be read at another position.  The function that rotates is
the one of the model's own module in `transformers`; `rotation_of` compares its result at two places with the model.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from memfold.backbone.model import Backbone
from memfold.core.errors import ConfigError
from memfold.core.registry import text_systems

SHIFT = 7  # positions between the two places that `rotation_of` compares
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}  # of the largest value; other data types have 8 bits or more
COARSE = 0.05


class Rotation:
    """Rotates keys [heads, n, size] of one model.

    Raises:
        ConfigError: for a model without the rotary embedding that this class knows; the message gives the reason.
    """

    def __init__(self, backbone: Backbone) -> None:
        body: Any = backbone.model.base_model
        reason = _obstacle(body, backbone.model.config.get_text_config())
        if reason:
            raise ConfigError(
                f"system 'kvbank' is not possible with model {backbone.name!r}: {reason}; use a --system "
                f"whose memory is text ({', '.join(text_systems())})"
            )
        self._rotary = body.rotary_emb
        self._apply = sys.modules[type(body.layers[0].self_attn).__module__].apply_rotary_pos_emb
        self._scale = float(getattr(self._rotary, "attention_scaling", 1.0))

    def rotate(self, keys: Tensor, positions: Tensor) -> Tensor:
        """Return the keys rotated to positions [n]."""
        cos, sin = self._angles(keys, positions)
        return self._turn(keys, cos, sin)

    def undo(self, keys: Tensor, positions: Tensor) -> Tensor:
        """Return the keys before their rotation to positions [n]."""
        cos, sin = self._angles(keys, positions)
        return self._turn(keys, cos, -sin) if self._scale == 1 else self._unscaled(keys, cos, sin)

    def _angles(self, keys: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self._rotary(keys[None].float(), positions[None].to(keys.device))
        return cos, sin

    def _turn(self, keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate the first dimensions of each key, as many as have an angle."""
        size = cos.shape[-1]
        part = keys[None, ..., :size].to(cos.dtype)
        turned = self._apply(part, part, cos, sin)[1][0].to(keys.dtype)
        return turned if size == keys.shape[-1] else torch.cat([turned, keys[..., size:]], -1)

    def _unscaled(self, keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Undo a rotation that also scales, as YaRN's does."""
        size, square = cos.shape[-1], self._scale**2
        turned = self._turn(keys, cos, -sin)
        return torch.cat([turned[..., :size] / square, turned[..., size:]], -1)


@torch.no_grad()
def rotation_of(backbone: Backbone) -> Rotation:
    """Return the rotation of a model after checking that it is the model's own.

    Raises:
        ConfigError: as `Rotation`, and for a model whose keys it does not rotate as the model does.
    """
    rotation = Rotation(backbone)
    token = torch.tensor([[backbone.end_token, backbone.end_token]], device=backbone.device)
    embeddings = backbone.model.get_input_embeddings()(token)
    keys = []
    for start in (0, SHIFT):
        positions = torch.arange(start, start + 2, device=backbone.device)
        layers = run(backbone, embeddings, positions)
        keys.append(torch.stack([rotation.undo(each[0], positions) for each, _ in layers]).float())
    scale = keys[0].abs().max().clamp(min=1e-6)
    if float((keys[0] - keys[1]).abs().max() / scale) > TOLERANCE.get(backbone.dtype, COARSE):
        raise ConfigError(
            f"system 'kvbank' is not possible with model {backbone.name!r}: its keys are not rotated in a way that can "
            f"be undone; use a --system whose memory is text ({', '.join(text_systems())})"
        )
    return rotation


def run(
    backbone: Backbone, embeddings: Tensor, positions: Tensor, past: Sequence[tuple[Tensor, Tensor]] = ()
) -> list[tuple[Tensor, Tensor]]:
    """Run the model over embeddings [b, t, d] at positions [t], and return keys and values [b, heads, p + t, size].

    `past` has the keys and values [b, heads, p, size] of earlier positions, per layer.
    """
    cache = DynamicCache(list(past)) if past else DynamicCache()
    backbone.forward(embeddings, positions[None].expand(len(embeddings), -1), None, cache)
    layers: list[Any] = cache.layers
    return [(layer.keys, layer.values) for layer in layers]


def _obstacle(body: Any, config: Any) -> str:
    """Return why the keys of a model cannot be rotated here, or ""."""
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - {"full_attention"}:
        return f"it has layers of other kinds than full attention ({', '.join(sorted(kinds - {'full_attention'}))})"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return "its attention has a sliding window"
    layers = getattr(body, "layers", None)
    attention = getattr(layers[0], "self_attn", None) if layers is not None and len(layers) else None
    if attention is None or not hasattr(body, "rotary_emb"):
        return "it has no rotary embedding"
    if not hasattr(sys.modules[type(attention).__module__], "apply_rotary_pos_emb"):
        return "the function that rotates its keys is not known"
    return ""
