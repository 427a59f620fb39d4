"""Sampling with vLLM on the same machine: calls are rendered and embedded here, and generated there.

vLLM numbers positions 0, 1, 2, ... and takes no key/value prefix, so systems and settings that need either are refused.
Not supported, as rollouts do not need it: streaming, attention and the repetition penalty.  It has not been run on a
GPU (`memfold.backbone.vllm`).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from memfold.backbone.adapters import without_roles
from memfold.backbone.model import DTYPES, Backbone
from memfold.backbone.vllm import VllmModel
from memfold.core.errors import ConfigError, DataError, Failure
from memfold.core.policy import Done, Execution, Policy, Request
from memfold.core.registry import make_system
from memfold.core.system import Rendered
from memfold.core.types import Generate, Reply
from memfold.rl.recipe import RlRecipe

INSTEAD = "or use engine = 'local'"


class VllmEngine:
    """One vLLM model for a run; the engine is the policy of all steps."""

    def __init__(self, recipe: RlRecipe, backbone: Backbone, processes: int) -> None:
        if processes > 1:
            raise ConfigError(f"engine 'vllm' supports one process, not {processes}; start one, {INSTEAD}")
        _check_systems(recipe, backbone)
        self.backbone = backbone
        self._dtype = recipe.precision
        self._model = VllmModel(recipe.precision, recipe.engine_memory)
        self._folder = TemporaryDirectory(prefix="memfold-vllm-")
        self._loads = 0

    def policy(self) -> Policy:
        """Return the engine itself, after loading the current weights into vLLM."""
        folder = Path(self._folder.name) / str(self._loads)
        _write(self.backbone, folder, DTYPES[self._dtype])
        self._model.load(folder)
        if self._loads:  # vLLM may read the first folder again
            shutil.rmtree(folder)
        self._loads += 1
        return self

    def start(self) -> Execution:
        """Return an execution that generates all replies at once."""
        return VllmExecution(self)

    def generate(self, requests: Sequence[Request]) -> list[Done]:
        """Return a reply or a failure for each request.

        Raises:
            ConfigError: for a system whose calls are not plain sequences of embeddings.
        """
        done: list[Done] = []
        fitting: list[tuple[Request, Rendered]] = []
        for request in requests:
            try:
                rendered = request.system.render(request.memory, request.call, self.backbone)
            except Exception as error:  # one call that cannot be rendered leaves the others alone
                done.append((request, Failure.of("policy", error)))
                continue
            _check(rendered, request)
            if len(rendered.tokens) < self.backbone.window:
                fitting.append((request, rendered))
            else:
                done.append((request, self._too_long(rendered)))
        if not fitting:
            return done
        prompts = [self._embedded(rendered) for _, rendered in fitting]
        sampling = [request.call.sampling for request, _ in fitting]
        generated = self._model.generate(prompts, sampling, sorted(self.backbone.end_tokens))
        for (request, rendered), reply in zip(fitting, generated, strict=True):
            if isinstance(reply, Reply):
                thinking, text = self.backbone.replies.split(rendered.tokens, reply.tokens)
                reply = replace(reply, text=text, thinking=thinking, positions=rendered.memory_positions)
            done.append((request, reply))
        return done

    def _too_long(self, rendered: Rendered) -> Failure:
        count, limit = len(rendered.tokens), self.backbone.window
        error = DataError(
            f"{count} positions leave no room for a reply in the model's {limit}; lower the sizes of the mixture"
        )
        return Failure.of("policy", error)

    @torch.no_grad()
    def _embedded(self, rendered: Rendered) -> Tensor:
        """Return the embedded prompt [t, d] on the CPU, in the dtype of vLLM's weights."""
        tokens = torch.tensor([rendered.tokens], device=self.backbone.device)
        rows = self.backbone.embed_rows(tokens, [] if rendered.slots is None else [rendered.slots])
        return rows[0].to("cpu", DTYPES[self._dtype])


class VllmExecution:
    """Generates everything that waits in one go; nothing is streamed, and a cancelled call has not begun."""

    def __init__(self, engine: VllmEngine) -> None:
        self._engine = engine
        self._waiting: list[Request] = []
        self._cancelled: list[Request] = []

    def submit(self, request: Request) -> None:
        """Add a call, which is generated at the next step."""
        self._waiting.append(request)

    def cancel(self, request: Request) -> None:
        """Drop a call that was not generated yet."""
        if request in self._waiting:
            self._waiting.remove(request)
            self._cancelled.append(request)

    def step(self) -> list[Done]:
        """Generate what waits."""
        waiting, self._waiting = self._waiting, []
        cancelled, self._cancelled = self._cancelled, []
        return [*((request, Reply(finish="cancelled")) for request in cancelled), *self._engine.generate(waiting)]

    def close(self) -> None:
        """Forget what waits."""
        self._waiting = []


def _write(backbone: Backbone, folder: Path, dtype: torch.dtype) -> None:
    """Save the model without its memory heads and adapters, which vLLM would treat as model weights."""
    state = {name: value.to(dtype) for name, value in without_roles(backbone.model.state_dict()).items()}
    backbone.model.save_pretrained(folder, state_dict=state)
    backbone.tokenizer.save_pretrained(folder)


def _check_systems(recipe: RlRecipe, backbone: Backbone) -> None:
    """Refuse systems whose calls leave token positions out, before anything starts."""
    for entry in recipe.mixture:
        system = make_system(entry.system, backbone, recipe.system_settings(entry))
        if not system.capabilities.consecutive:
            raise ConfigError(_skips(entry.system))


def _skips(system: str) -> str:
    return (
        f"the settings of system {system!r} leave token positions out, but engine 'vllm' numbers them 0, 1, 2, ...; "
        f"change them, {INSTEAD}"
    )


def _check(rendered: Rendered, request: Request) -> None:
    name, adapter = request.system.name, request.call.adapter
    if adapter is not None:
        raise ConfigError(
            f"system {name!r} makes calls with the adapter {adapter!r}, but engine 'vllm' loads plain weights; set "
            f"adapters = false, {INSTEAD}"
        )
    if rendered.prefix is not None or not isinstance(request.call.wants, Generate):
        raise ConfigError(
            f"system {name!r} makes calls that engine 'vllm' cannot answer: it takes embeddings and writes replies, "
            f"without prefixes of keys and values or scores; remove the system from the mixture, {INSTEAD}"
        )
    if rendered.positions != list(range(len(rendered.tokens))):
        raise ConfigError(_skips(name))
