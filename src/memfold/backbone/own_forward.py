"""The two halves of a model's own forward pass: the body, which computes hidden states, and what makes them logits."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel


def body_of(model: PreTrainedModel) -> PreTrainedModel:
    """Return the part of a causal LM that computes hidden states; it is a model of its own."""
    return next(module for module in model.children() if isinstance(module, PreTrainedModel))


def own_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Return the logits [..., v] of final hidden states [..., d], as the class of the model computes them.

    Classes differ in what they do around the output layer: scales, multipliers, soft caps.  All of it is in their
    `forward` method.  So that method is called on a copy of the model whose body returns the given hidden states; the
    copy shares all weights.
    """
    body = body_of(model)
    given = _Given(hidden.reshape(1, -1, hidden.shape[-1]), body)
    copy: Any = object.__new__(type(model))
    modules = {name: given if module is body else module for name, module in model._modules.items()}
    copy.__dict__ = model.__dict__ | {"_modules": modules}
    logits: Tensor = copy.forward(inputs_embeds=given.output.last_hidden_state, use_cache=False).logits
    return logits.reshape(*hidden.shape[:-1], logits.shape[-1])


class _Given(nn.Module):
    """A body that returns given hidden states.  So do its parts, such as a decoder; its settings are the body's."""

    def __init__(self, hidden: Tensor, body: nn.Module) -> None:
        super().__init__()
        self.output = _Output(hidden)
        self.__dict__["_body"] = body

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._body, name)
        return self if isinstance(value, nn.Module) else value

    def forward(self, *arguments: Any, **options: Any) -> _Output:
        return self.output


class _Output:
    """The output of a body: hidden states, and None for everything else."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, index: int) -> Tensor:
        return self.last_hidden_state
