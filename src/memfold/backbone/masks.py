"""Attention masks: which positions of a batch attend to each other, beside what the layers of a model restrict.

The masks are made by the model's own code in `transformers`, so that sliding windows, chunks and other patterns are
those of the model.  That code counts positions by their index in the batch.  Here it is given the index that a position
has in its own sequence, whatever padding, prefix or packed row stands before it; positions of other sequences are
masked afterwards.

The functions that `transformers` has registered for its masks are wrapped once, when this module is imported.  They
compute what they did before unless a `Visibility` is active.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
IMPLEMENTATIONS = ("eager", "sdpa")


@dataclass(frozen=True, eq=False)
class Visibility:
    """Which of p + t positions the last t positions of each of b rows can attend to.

    `order` [b, p + t] holds the index of each position in its own sequence.  `valid` [b, p + t] is False at padding.
    `allowed` [b, t, p + t] is True where a position may attend to another one if the model lets it, which is where the
    other one stands before it.  If `bidirectional`, positions see as far ahead as the model lets them see back.
    """

    order: Tensor
    valid: Tensor
    allowed: Tensor
    bidirectional: bool = False

    @contextmanager
    def active(self) -> Iterator[None]:
        """Apply the visibility to the masks that a model makes inside the `with` block."""
        before, _current.visibility = _current.visibility, self
        try:
            yield
        finally:
            _current.visibility = before

    def restrict(self, function: MaskFunction) -> MaskFunction:
        """Return the mask function of a model under this visibility."""
        padding = (self.valid.cumsum(1) == 0).sum(1, keepdim=True)  # chunks of a model begin after it
        order, past = self.order + padding, self.allowed.shape[2] - self.allowed.shape[1]

        def restricted(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            before, after = order[row, query], order[row, key]
            if self.bidirectional:
                before, after = torch.maximum(before, after), torch.minimum(before, after)
            return function(row, head, before, after) & self.allowed[row, query - past, key]

        return restricted


def padded(valid: Tensor, length: int) -> Visibility:
    """Return the visibility of the last `length` positions of rows [b, p + t] with padding, which is not `valid`."""
    valid = valid.bool()
    itself = torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)[
        -length:
    ]  # otherwise padding sees nothing
    return Visibility(valid.long().cumsum(1) - 1, valid, valid[:, None, :] | itself)


class _Current(threading.local):
    """The visibility that is active in a thread."""

    visibility: Visibility | None = None


_current = _Current()


def _wrapped(make: Callable[..., Any]) -> Callable[..., Any]:
    def make_mask(*arguments: Any, **options: Any) -> Any:
        visibility = _current.visibility
        if visibility is not None:
            function = visibility.restrict(options["mask_function"])
            options |= {"mask_function": function, "attention_mask": None, "allow_is_causal_skip": False}
            device = visibility.valid.device.type
            if "dtype" in options and torch.is_autocast_enabled(device):  # a mask that is added to the scores
                options["dtype"] = torch.get_autocast_dtype(device)
        return make(*arguments, **options)

    return make_mask


for _name in IMPLEMENTATIONS:
    ALL_MASK_ATTENTION_FUNCTIONS.register(_name, _wrapped(ALL_MASK_ATTENTION_FUNCTIONS[_name]))
