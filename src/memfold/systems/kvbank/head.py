"""What the KV memory bank adds to a model: the memory token, its projections, the head of the gate, three adapters.

The base weights stay frozen.  The memory token starts as the end token (as in the public release of LycheeMemory), its
projections as those of the model, the head of the gate as zero, so that every block has the probability 1/2, and an
adapter without effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from memfold.backbone.model import Backbone
from memfold.core.errors import CheckpointError
from memfold.systems.kvbank.projections import own_projections, stored_projections
from memfold.systems.kvbank.settings import HEAD
from memfold.systems.shared.linear import add_adapter


class KvbankHead(nn.Module):
    """The embedding of the memory token (`token` [d]), its projections (`own`, by letter and layer), and the head of
    the gate (`gate`, to one logit)."""

    def __init__(self, size: int, own: nn.ModuleDict) -> None:
        super().__init__()
        self.own = own
        self.token = nn.Parameter(torch.zeros(size))
        self.gate = nn.Linear(size, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)


def add_parts(backbone: Backbone, ranks: Mapping[str, int], letters: Sequence[str] = ()) -> None:
    """Add the head, and an adapter of each rank by name, to a model; parts that it has are left unchanged.

    `letters` are the projections (q, k, v, o) that memory tokens have of their own.

    Raises:
        CheckpointError: for a model without the linear modules that the adapters or projections change.
    """
    if HEAD not in backbone.heads:
        head = KvbankHead(backbone.hidden_size, own_projections(backbone, letters))
        with torch.no_grad():
            head.token.copy_(backbone.model.get_input_embeddings().weight[backbone.end_token])  # type: ignore[index]
        backbone.heads[HEAD] = head.to(backbone.device)
    for seed, (role, rank) in enumerate(ranks.items()):
        add_adapter(backbone, role, rank, seed)


def head_of(backbone: Backbone) -> KvbankHead:
    """Return the memory token of a model with its projections.

    Raises:
        CheckpointError: for a model that has none; the message says what to use instead.
    """
    head = dict(backbone.heads.items()).get(HEAD)
    if not isinstance(head, KvbankHead):
        raise CheckpointError(
            f"model {backbone.name!r} has no trained compressor for a KV memory bank; use one that needs no training, "
            "such as compressor = reconstruction, or train it first"
        )
    return head


def read_head(tensors: Mapping[str, Tensor]) -> nn.Module:
    """Build the head of a model folder from its tensors by name.

    Raises:
        CheckpointError: for names or shapes that are not those of a head.
    """
    try:
        own = {name.removeprefix("own."): tensor for name, tensor in tensors.items() if name.startswith("own.")}
        head = KvbankHead(len(tensors["token"]), stored_projections(own))
        head.load_state_dict(dict(tensors))
    except (KeyError, RuntimeError, TypeError, ValueError):
        names = ", ".join(sorted(tensors))
        raise CheckpointError(f"tensors {names} are not a head of a KV memory bank; use the model's own file") from None
    return head
