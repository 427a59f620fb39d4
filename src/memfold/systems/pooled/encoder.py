"""Groups of tokens to slots: the same LLM encodes each group alone, its final hidden states are averaged, projected.

Equation 1 of the pooled paper: m_i = Proj(1/C * sum_j h_ij).  Groups are independent, so those of many chunks and
documents go through the model in one batch; the result does not depend on the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from memfold.backbone.allocation import give_back
from memfold.backbone.model import Backbone
from memfold.core.errors import CheckpointError

HEAD = "pooled"
# Tokens that are encoded together: enough to fill a GPU, little enough to stay small in memory.
BATCH_TOKENS = 8192
# Without gradient a processor takes this many tokens at a time: what they become then stays in its cache, which is
# twice as fast as eight times as many, and too little to leave holes in the memory of a long fold.
CPU_TOKENS = 1024


def add_head(backbone: Backbone) -> None:
    """Give a backbone its projection, the identity to begin with, unless it has one."""
    if HEAD not in backbone.heads:
        size = backbone.hidden_size
        head = nn.Linear(size, size, bias=False, device=backbone.device, dtype=backbone.dtype)
        nn.init.eye_(head.weight)
        backbone.heads[HEAD] = head


def check_head(backbone: Backbone) -> None:
    """Refuse a backbone that has no projection, or one for hidden states of another size.

    Raises:
        CheckpointError: naming both sizes.
    """
    if HEAD not in backbone.heads:
        raise CheckpointError(f"model {backbone.name!r} has no projection for pooled memory; train it first")
    (weight,) = backbone.heads[HEAD].parameters()
    rows, columns, size = *weight.shape, backbone.hidden_size
    if (rows, columns) != (size, size):
        raise CheckpointError(
            f"model {backbone.name!r} has a projection of {columns} to {rows} numbers for hidden states of {size}; "
            "its files do not belong together"
        )


def group_starts(tokens: int, ratio: int) -> tuple[int, ...]:
    """The first token of each group; the last group may be shorter than `ratio`."""
    return tuple(range(0, tokens, ratio))


def encode_groups(backbone: Backbone, groups: Sequence[Sequence[int]], ratio: int) -> Tensor:
    """One slot for each group of at most `ratio` tokens: [n, d] in float32."""
    slots = torch.cat([_encode(backbone, some, ratio) for some in passes(backbone, groups, ratio)])
    if backbone.device.type == "cpu" and not torch.is_grad_enabled():
        give_back()  # a fold of any length then peaks where its first blocks do
    return slots


def passes(backbone: Backbone, groups: Sequence[Sequence[int]], ratio: int) -> list[Sequence[Sequence[int]]]:
    """The groups of each forward pass."""
    whole = torch.is_grad_enabled() or backbone.device.type != "cpu"
    size = len(groups) if whole else max(1, CPU_TOKENS // ratio)
    return [groups[start : start + size] for start in range(0, len(groups), size)]


def _encode(backbone: Backbone, groups: Sequence[Sequence[int]], ratio: int) -> Tensor:
    """The slots of one forward pass.

    Short groups are padded on the right: attention is causal, so padding changes no token before it, and the average
    leaves it out.
    """
    counts = [len(group) for group in groups]
    ids = torch.tensor([[*group, *[0] * (ratio - len(group))] for group in groups], device=backbone.device)
    hidden = backbone.hidden(backbone.model.get_input_embeddings()(ids))
    if min(counts) == ratio:
        mean = hidden.mean(1)
    else:
        valid = torch.arange(ratio, device=ids.device) < torch.tensor(counts, device=ids.device)[:, None]
        mean = (hidden * valid[..., None]).sum(1) / valid.sum(1, keepdim=True)
    slots: Tensor = backbone.heads[HEAD](mean)
    return slots.float()
