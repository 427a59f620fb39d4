"""Windows of tokens to slots: a model encodes each window alone, its final hidden states are pooled group by group.

Equation 1 of the pooled paper, m_i = Proj(1/C * sum_j h_ij), with a window of one group; wider windows, other masks and
heads are settings.  Windows are independent, so those of many chunks and documents go through the model in one batch;
the result does not depend on the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from memfold.backbone.allocation import give_back
from memfold.backbone.model import Backbone
from memfold.core.document import Chunk, Document, chunks
from memfold.core.types import Block
from memfold.systems.pooled.head import HEAD
from memfold.systems.pooled.settings import PooledFold

# Tokens that are encoded together: enough to fill a GPU, little enough to stay small in memory.
BATCH_TOKENS = 8192
# Without gradient a processor takes this many tokens at a time: what they become then stays in its cache, which is
# twice as fast as eight times as many, and too little to leave holes in the memory of a long fold.
CPU_TOKENS = 1024

Windows = Sequence[Sequence[int]]


def group_starts(tokens: int, ratio: int) -> tuple[int, ...]:
    """The first token of each group; the last group may be shorter than `ratio`."""
    return tuple(range(0, tokens, ratio))


def windows_of(tokens: Sequence[int], settings: PooledFold) -> list[Sequence[int]]:
    """The windows of a chunk; the last one may be shorter."""
    size = settings.window_tokens
    return [tokens[start : start + size] for start in range(0, len(tokens), size)]


def chunk_batches(
    documents: Sequence[Document], encoder: Backbone, settings: PooledFold
) -> Iterator[list[tuple[int, Chunk]]]:
    """Chunks with the numbers of their documents, as many as one forward pass takes."""
    batch: list[tuple[int, Chunk]] = []
    for source, document in enumerate(documents):
        for chunk in chunks(document, encoder.tokenize, settings.chunk):
            if batch and sum(len(c.tokens) for _, c in batch) + len(chunk.tokens) > BATCH_TOKENS:
                yield batch
                batch = []
            batch.append((source, chunk))
    if batch:
        yield batch


def encode_chunks(batch: Sequence[tuple[int, Chunk]], encoder: Backbone, settings: PooledFold) -> Iterator[Block]:
    """The blocks of some chunks, encoded together."""
    counts = [len(group_starts(len(chunk.tokens), settings.ratio)) for _, chunk in batch]
    windows = [window for _, chunk in batch for window in windows_of(chunk.tokens, settings)]
    slots = encode_windows(encoder, windows, settings).split(counts)
    for (source, chunk), part in zip(batch, slots, strict=True):
        yield Block(
            index=chunk.index,
            source=source,
            token_start=chunk.token_start,
            token_end=chunk.token_end,
            char_start=chunk.char_start,
            char_end=chunk.char_end,
            slots=part,
            text=chunk.text,
        )


def encode_windows(backbone: Backbone, windows: Windows, settings: PooledFold) -> Tensor:
    """The slots of all windows in their order, one for each group begun: [n, d] in float32."""
    parts = passes(backbone, windows, settings.ratio, settings.window_tokens)
    slots = torch.cat([_encode(backbone, some, settings) for some in parts])
    if backbone.device.type == "cpu" and not torch.is_grad_enabled():
        give_back()  # a fold of any length then peaks where its first blocks do
    return slots


def passes(backbone: Backbone, windows: Windows, ratio: int, window: int) -> list[Windows]:
    """The windows, of at most `window` tokens, of each forward pass: as many as fit when all are padded to the longest.

    Single groups have little padding: where memory is no concern, all of them are one pass.
    """
    free = torch.is_grad_enabled() or backbone.device.type != "cpu"
    if free and window == ratio:
        return [windows]
    most, found, start, longest = BATCH_TOKENS if free else CPU_TOKENS, list[Windows](), 0, 0
    for number, one in enumerate(windows):
        longest = max(longest, _whole(len(one), ratio))
        if number > start and longest * (number + 1 - start) > most:
            found.append(windows[start:number])
            start, longest = number, _whole(len(one), ratio)
    return [*found, windows[start:]]


def _whole(tokens: int, ratio: int) -> int:
    """Rounded up to whole groups."""
    return -(-tokens // ratio) * ratio


def _encode(backbone: Backbone, windows: Windows, settings: PooledFold) -> Tensor:
    """The slots of one forward pass.  Short windows are padded on the right, to whole groups of the longest."""
    counts, ratio = [len(window) for window in windows], settings.ratio
    width = _whole(max(counts), ratio)
    ids = torch.tensor([[*window, *[0] * (width - len(window))] for window in windows], device=backbone.device)
    mask = _bidirectional(counts, ids) if settings.mask == "bidirectional" else None
    states = backbone.hidden(backbone.model.get_input_embeddings()(ids), None, mask)
    groups = states.view(-1, ratio, backbone.hidden_size)
    sizes = [min(ratio, count - start) for count in counts for start in range(0, width, ratio)]
    begun = [index for index, size in enumerate(sizes) if size > 0]
    if len(begun) < len(sizes):
        groups, sizes = groups[begun], [sizes[index] for index in begun]
    return _slots(backbone, groups, sizes)


def _bidirectional(counts: Sequence[int], ids: Tensor) -> Tensor:
    """[b, 1, t, t]: a token reads all of its window, and no padding (which a causal token has behind it)."""
    rows, width = ids.shape
    valid = torch.arange(width, device=ids.device) < torch.tensor(counts, device=ids.device)[:, None]
    return valid[:, None, None, :].expand(rows, 1, width, width)


def _slots(backbone: Backbone, groups: Tensor, sizes: Sequence[int]) -> Tensor:
    """Slots [n, d] of hidden states [n, r, e]; what lies beyond a group's size is padding."""
    head, ratio = backbone.heads[HEAD], groups.shape[1]
    valid = None
    if min(sizes) < ratio:
        valid = torch.arange(ratio, device=groups.device) < torch.tensor(sizes, device=groups.device)[:, None]
    pooling = getattr(head, "pooling", None)
    slots: Tensor = head(_mean(groups, valid) if pooling is None else pooling(groups, valid))
    return slots.float()


def _mean(states: Tensor, valid: Tensor | None) -> Tensor:
    """[n, e] from [n, r, e]."""
    if valid is None:
        return states.mean(1)
    return (states * valid[..., None]).sum(1) / valid.sum(1, keepdim=True)
