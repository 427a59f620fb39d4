"""The trained compressor: memory tokens between the tokens of a chunk, whose keys and values are the block.

After every `ratio` tokens of text, and after the last ones, stands a memory token with a learned embedding
(LycheeMemory, section 3.2), and projections of its own if it was trained with them.  The adapter of the compressor is
active in the pass.  A chunk may be read in windows; a later window attends to the memory tokens of earlier ones, not to
their text.  Chunks share a pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memfold.backbone.model import Backbone
from memfold.core.system import SLOT
from memfold.systems.kvbank.blocks import Layers, to_slots
from memfold.systems.kvbank.head import head_of
from memfold.systems.kvbank.projections import at_memory_tokens
from memfold.systems.kvbank.rotation import Rotation, run
from memfold.systems.kvbank.settings import BATCH_TOKENS, COMPRESSOR, KvbankFold


def compress_chunks(
    backbone: Backbone, chunks: Sequence[Sequence[int]], before: Sequence[int], fold: KvbankFold, rotation: Rotation
) -> list[Tensor]:
    """Return the slots [n, d] of each chunk; the tokens `before` begin the prompt and are not compressed."""
    with backbone.adapter(COMPRESSOR if fold.adapters else None):
        return [slots for batch in _batches(chunks) for slots in _compress(backbone, batch, before, fold, rotation)]


def _batches(chunks: Sequence[Sequence[int]]) -> list[list[Sequence[int]]]:
    """Divide chunks into forward passes of at most `BATCH_TOKENS` tokens, padding included."""
    batches: list[list[Sequence[int]]] = []
    for chunk in chunks:
        last = batches[-1] if batches else []
        if not last or (len(last) + 1) * max(len(chunk), *map(len, last)) > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(chunk)
    return batches


def _compress(
    backbone: Backbone, chunks: Sequence[Sequence[int]], before: Sequence[int], fold: KvbankFold, rotation: Rotation
) -> list[Tensor]:
    """Compress chunks window by window.

    What a row carries to its next window is the beginning of the prompt and its memory tokens, rotated to 0, 1, 2, ...
    """
    longest = max(map(len, chunks))
    size = fold.window or longest
    carried: list[Layers] = [[] for _ in chunks]  # keys before rotation, and values, [heads, n, size] per layer
    for start in range(0, longest, size):
        rows = [number for number, chunk in enumerate(chunks) if start < len(chunk)]
        parts = [chunks[number][start : start + size] for number in rows]
        windows = [[*(() if start else before), *interleaved(part, fold.ratio)] for part in parts]
        past = [carried[number] for number in rows]
        for number, layers in zip(rows, _run_window(backbone, windows, past, len(before), rotation), strict=True):
            carried[number] = _joined(carried[number], layers)
    if fold.positions == "original":
        carried = [
            _at_original(layers, len(before), fold.ratio, len(chunk), rotation)
            for layers, chunk in zip(carried, chunks, strict=True)
        ]
    return [to_slots([(keys[:, len(before) :], values[:, len(before) :]) for keys, values in row]) for row in carried]


def interleaved(tokens: Sequence[int], ratio: int) -> list[int]:
    """Return tokens with a memory token (`SLOT`) after every `ratio` of them, and after the last ones."""
    groups = (tokens[start : start + ratio] for start in range(0, len(tokens), ratio))
    return [token for group in groups for token in (*group, SLOT)]


def _run_window(
    backbone: Backbone, windows: Sequence[Sequence[int]], past: Sequence[Layers], lead: int, rotation: Rotation
) -> list[Layers]:
    """Run one window of each row, and return what each row keeps of it, with keys before rotation.

    A row keeps its memory tokens and, from the first window, the `lead` tokens that begin the prompt.  Rows are padded
    on the right, which causal attention does not see.
    """
    done = past[0][0][0].shape[1] if past[0] else 0
    width = max(map(len, windows))
    ids = torch.tensor([[*window, *[0] * (width - len(window))] for window in windows], device=backbone.device)
    head = head_of(backbone)
    memory = head.token[None].expand(int((ids == SLOT).sum()), -1)
    positions = torch.arange(done, done + width, device=backbone.device)
    earlier = _rotated(past, rotation) if done else ()
    with at_memory_tokens(backbone, head.own, ids == SLOT):
        cached = run(backbone, backbone.embed_rows(ids, [memory]), positions, earlier)
    results: list[Layers] = []
    for row, window in enumerate(windows):
        kept = [index for index, token in enumerate(window) if token == SLOT or (not done and index < lead)]
        places = torch.tensor(kept, device=backbone.device)
        results.append(
            [
                (rotation.undo(keys[row][:, done + places], done + places), values[row][:, done + places])
                for keys, values in cached
            ]
        )
    return results


def _rotated(rows: Sequence[Layers], rotation: Rotation) -> list[tuple[Tensor, Tensor]]:
    """Return the keys, rotated to 0, 1, ..., and values [b, heads, m, size] per layer, of rows of equal length."""
    count = rows[0][0][0].shape[1]
    positions = torch.arange(count, device=rows[0][0][0].device)
    return [
        (
            torch.stack([rotation.rotate(row[layer][0], positions) for row in rows]),
            torch.stack([row[layer][1] for row in rows]),
        )
        for layer in range(len(rows[0]))
    ]


def _joined(first: Layers, second: Layers) -> Layers:
    if not first:
        return second
    pairs = zip(first, second, strict=True)
    return [(torch.cat([keys, more], 1), torch.cat([values, others], 1)) for (keys, values), (more, others) in pairs]


def _at_original(layers: Layers, lead: int, ratio: int, tokens: int, rotation: Rotation) -> Layers:
    """Rotate the keys of a chunk that was read in one pass to the positions that they had in it."""
    ends = [min((number + 1) * ratio, tokens) + number for number in range(-(-tokens // ratio))]
    places = torch.tensor([*range(lead), *(lead + end for end in ends)], device=layers[0][0].device)
    return [(rotation.rotate(keys, places), values) for keys, values in layers]
