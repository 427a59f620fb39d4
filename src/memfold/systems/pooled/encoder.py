"""Encodes windows of tokens into slots: a model encodes each window, and its hidden states are pooled group by group.

This is equation 1 of the paper, m_i = Proj(1/C * sum_j h_ij), where a window is one group; wider windows, other masks
and other heads are settings.  Windows are independent of each other, so the windows of many chunks and documents share
forward passes.  The result does not depend on the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from memfold.backbone.allocation import give_back
from memfold.backbone.masks import Visibility
from memfold.backbone.model import Backbone
from memfold.core.document import Chunk, fixed_lengths
from memfold.core.types import Block
from memfold.systems.pooled.groups import group_lengths, group_windows
from memfold.systems.pooled.settings import BATCH_TOKENS, HEAD, PooledFold
from memfold.systems.shared.blocks import chunk_block

# Maximum tokens of a forward pass on a CPU without gradients.  Activations then stay in the CPU cache, which is twice
# as fast as passes of eight times the size, and they are too small to fragment the memory of a long fold.
CPU_TOKENS = 1024


@dataclass(frozen=True)
class Window:
    """Tokens that the encoder sees together, and the number of tokens of each of their groups."""

    tokens: Sequence[int]
    groups: Sequence[int]


Windows = Sequence[Window]


def windows_of(tokens: Sequence[int], encoder: Backbone, settings: PooledFold) -> list[Window]:
    """Split the tokens of a chunk into windows of whole groups."""
    if settings.groups == "fixed":
        return fixed_windows(tokens, settings.window_tokens, settings.ratio)
    windows, start = list[Window](), 0
    size = settings.window if settings.window >= settings.longest_group else 0
    for groups in group_windows(group_lengths(tokens, encoder, settings), size):
        end = start + sum(groups)
        windows.append(Window(tokens[start:end], groups))
        start = end
    return windows


def fixed_windows(tokens: Sequence[int], window: int, ratio: int) -> list[Window]:
    """Split tokens into windows of `window` tokens with groups of `ratio`; the last of each may be shorter."""
    parts = [tokens[start : start + window] for start in range(0, len(tokens), window)]
    return [Window(part, fixed_lengths(len(part), ratio)) for part in parts]


def encode_chunks(batch: Sequence[tuple[int, Chunk]], encoder: Backbone, settings: PooledFold) -> Iterator[Block]:
    """Encode chunks together and yield their blocks."""
    windows = [windows_of(chunk.tokens, encoder, settings) for _, chunk in batch]
    lengths = [[length for window in each for length in window.groups] for each in windows]
    slots = encode_windows(encoder, [window for each in windows for window in each], settings)
    for (source, chunk), part, groups in zip(batch, slots.split([*map(len, lengths)]), lengths, strict=True):
        yield chunk_block(source, chunk, part, None if settings.groups == "fixed" else tuple(groups))


def encode_windows(backbone: Backbone, windows: Windows, settings: PooledFold) -> Tensor:
    """Return the slots [n, d] of all windows in order, one per group, in float32."""
    parts = passes(backbone, windows, settings.ratio, settings.window_tokens)
    with backbone.adapter(settings.adapter):
        slots = torch.cat([_encode(backbone, part, settings) for part in parts])
    if backbone.device.type == "cpu" and not torch.is_grad_enabled():
        give_back()  # the peak memory then does not depend on the length of the fold
    return slots


def passes(backbone: Backbone, windows: Windows, ratio: int, window: int) -> list[Windows]:
    """Divide windows of at most `window` tokens into forward passes of limited size, padding included.

    Windows are padded to the longest of their pass.  Windows of a single group have little padding, so they share one
    pass unless memory matters (on a CPU without gradients).
    """
    large = torch.is_grad_enabled() or backbone.device.type != "cpu"
    if large and window == ratio:
        return [windows]
    limit, parts, start, longest = BATCH_TOKENS if large else CPU_TOKENS, list[Windows](), 0, 0
    for index, each in enumerate(windows):
        longest = max(longest, _round_up(len(each.tokens), ratio))
        if index > start and longest * (index + 1 - start) > limit:
            parts.append(windows[start:index])
            start, longest = index, _round_up(len(each.tokens), ratio)
    return [*parts, windows[start:]]


def _round_up(tokens: int, ratio: int) -> int:
    """Round a number of tokens up to whole groups."""
    return -(-tokens // ratio) * ratio


def _encode(backbone: Backbone, windows: Windows, settings: PooledFold) -> Tensor:
    """Return the slots of one forward pass; windows are padded on the right to a multiple of the ratio."""
    counts = [len(window.tokens) for window in windows]
    width = _round_up(max(counts), settings.ratio)
    rows = [[*window.tokens, *[0] * (width - len(window.tokens))] for window in windows]
    ids = torch.tensor(rows, device=backbone.device)
    visibility = _bidirectional(counts, ids) if settings.mask == "bidirectional" else None
    states = backbone.hidden(ids, None, visibility)
    starts, sizes = list[int](), list[int]()
    for row, window in enumerate(windows):
        ends = accumulate(window.groups, initial=row * width)
        starts += [start for start, _ in zip(ends, window.groups, strict=False)]
        sizes += window.groups
    places = torch.tensor(starts, device=ids.device)[:, None] + torch.arange(max(sizes), device=ids.device)
    flat = states.reshape(-1, backbone.hidden_size)
    return _slots(backbone, flat[places.clamp(max=len(flat) - 1)], sizes)  # padding of a group is masked


def _bidirectional(counts: Sequence[int], ids: Tensor) -> Visibility:
    """Return the visibility that lets a token attend to its whole window, but not to padding.

    Causal attention needs none, because padding is on the right.
    """
    order = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    valid = order < torch.tensor(counts, device=ids.device)[:, None]
    return Visibility(order, valid, valid[:, None, :].expand(-1, ids.shape[1], -1), bidirectional=True)


def _slots(backbone: Backbone, groups: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the slots [n, d] of hidden states [n, r, e]; tokens of a group beyond its size are padding."""
    head, ratio = backbone.heads[HEAD], groups.shape[1]
    valid = None
    if min(sizes) < ratio:
        valid = torch.arange(ratio, device=groups.device) < torch.tensor(sizes, device=groups.device)[:, None]
    pooling = getattr(head, "pooling", None)
    slots: Tensor = head(_mean(groups, valid) if pooling is None else pooling(groups, valid))
    return slots.float()


def _mean(states: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean [n, e] of hidden states [n, r, e] without padding."""
    if valid is None:
        return states.mean(1)
    return (states * valid[..., None]).sum(1) / valid.sum(1, keepdim=True)
