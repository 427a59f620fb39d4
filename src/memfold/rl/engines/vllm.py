"""Replies from vLLM on the same machine: calls are rendered and embedded here, and generated there.

Its positions run 0, 1, 2, ... and nothing comes before a prompt, so systems and settings that want anything else are
refused.  Left out, as rollouts do not ask for it: replies token by token, cancelling, `Limits.reads` and
`Limits.repetition_penalty`.  It has not been run on a GPU (`memfold.backbone.vllm`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from memfold.backbone.model import DTYPES, Backbone
from memfold.backbone.policy import render_all
from memfold.backbone.vllm import VllmModel
from memfold.core.errors import ConfigError, DataError
from memfold.core.system import Inputs, MemorySystem, Policy
from memfold.core.types import Call, Memory, Reply
from memfold.rl.recipe import RlRecipe
from memfold.training.batches import system_of

CONSECUTIVE = "consecutive"
INSTEAD = "or take engine = 'local'"


class VllmEngine:
    """One model in vLLM for a run, and the policy of all its steps."""

    def __init__(self, recipe: RlRecipe, backbone: Backbone, processes: int) -> None:
        if processes > 1:
            raise ConfigError(f"engine 'vllm' works with one process, not {processes}; start one, {INSTEAD}")
        _check_positions(recipe, backbone)
        self.backbone = backbone
        self._dtype = recipe.precision
        self._model = VllmModel(recipe.precision, recipe.engine_memory)
        self._folder = TemporaryDirectory(prefix="memfold-vllm-")
        self._loads = 0

    def policy(self) -> Policy:
        """Itself, after vLLM has taken the weights over."""
        folder = Path(self._folder.name) / str(self._loads)
        _write(self.backbone, folder, DTYPES[self._dtype])
        self._model.load(folder)
        if self._loads:  # what vLLM was started from stays: it may look there again
            shutil.rmtree(folder)
        self._loads += 1
        return self

    def generate(
        self,
        requests: Sequence[tuple[MemorySystem, Memory, Call]],
        on_token: Callable[[int, str], None] | None = None,
        cancel: Callable[[int], bool] | None = None,
    ) -> list[Reply | Exception]:
        """One reply for each request, or why there is none.

        Raises:
            ConfigError: for a system whose calls are no plain sequences of embeddings.
        """
        rendered, replies = render_all(requests, self.backbone)
        fitting = []
        for row, inputs, call in rendered:
            _check(inputs, requests[row][0])
            if len(inputs.tokens) < self.backbone.window:
                fitting.append((row, inputs, call))
            else:
                replies[row] = DataError(
                    f"{len(inputs.tokens)} positions leave no room for a reply in the model's {self.backbone.window}"
                )
        if not fitting:
            return replies
        prompts = [self._embedded(inputs) for _, inputs, _ in fitting]
        made = self._model.generate(prompts, [call.limits for _, _, call in fitting], self.backbone.end_token)
        for (row, inputs, _), reply in zip(fitting, made, strict=True):
            replies[row] = reply
            if isinstance(reply, Reply):
                text = self.backbone.decode(reply.tokens)
                replies[row] = replace(reply, text=text, positions=inputs.memory_positions)
        return replies

    @torch.no_grad()
    def _embedded(self, inputs: Inputs) -> Tensor:
        """[t, d] in the numbers of vLLM's weights, where its processes can take it from."""
        tokens = torch.tensor([inputs.tokens], device=self.backbone.device)
        rows = self.backbone.embed_rows(tokens, [] if inputs.slots is None else [inputs.slots])
        return rows[0].to("cpu", DTYPES[self._dtype])


def _write(backbone: Backbone, folder: Path, dtype: torch.dtype) -> None:
    """An ordinary folder without our heads, which vLLM would take for weights of the model."""
    state = {name: value.to(dtype) for name, value in backbone.model.state_dict().items()}
    backbone.model.save_pretrained(folder, state_dict=state)
    backbone.tokenizer.save_pretrained(folder)


def _check_positions(recipe: RlRecipe, backbone: Backbone) -> None:
    """Refuse before anything is started what is known to leave positions out."""
    for entry in recipe.mixture:
        rule = system_of(entry, recipe, backbone, {}).settings.get("positions", CONSECUTIVE)
        if rule != CONSECUTIVE:
            raise ConfigError(
                f"positions = {rule!r} of {entry.label} is not possible with engine 'vllm', which numbers them one "
                f"after another; write settings = {{ positions = {CONSECUTIVE!r} }}, {INSTEAD}"
            )
        if entry.gap:
            raise ConfigError(
                f"gap = {entry.gap} of {entry.label} is not possible with engine 'vllm', which leaves no positions "
                f"empty; write gap = 0, {INSTEAD}"
            )


def _check(inputs: Inputs, system: MemorySystem) -> None:
    if inputs.key_values is not None:
        raise ConfigError(
            f"system {system.name!r} renders keys and values, and engine 'vllm' takes embeddings alone; leave the "
            f"system out of the mixture, {INSTEAD}"
        )
    if inputs.positions != list(range(len(inputs.tokens))):
        raise ConfigError(
            f"system {system.name!r} renders positions that do not run 0, 1, 2, ..., as those of engine 'vllm' do; "
            f"change its settings, {INSTEAD}"
        )
