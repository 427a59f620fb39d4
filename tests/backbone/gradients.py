"""Gradients for tests that compare two ways to the same numbers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from memfold.backbone.model import Backbone

Named = dict[str, Tensor]


def gradients(backbone: Backbone, backward: Callable[[], None]) -> Named:
    """What a backward pass leaves in each weight that it reaches."""
    for _, weight in backbone.parameters():
        weight.grad = None
    backward()
    return {name: weight.grad.clone() for name, weight in backbone.parameters() if weight.grad is not None}


def weighted(values: Tensor) -> Tensor:
    """A loss in which every token counts differently."""
    return -(values * torch.linspace(0.5, 1.5, len(values))).sum()


def assert_equal_gradients(gradients: Named, expected: Named, tolerance: float) -> None:
    """By the norm of the difference, weight by weight."""
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        assert float((gradients[name] - gradient).norm() / gradient.norm()) < tolerance, name
