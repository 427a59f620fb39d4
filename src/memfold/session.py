"""A system with the model that it works with: by their names, or as a memory asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from memfold.backbone.folder import load_backbone
from memfold.backbone.model import Backbone
from memfold.backbone.policy import BATCH_POSITIONS, LocalPolicy
from memfold.backbone.resolve import TINY, resolve_model
from memfold.core import registry
from memfold.core.errors import CallError, ConfigError, DataError
from memfold.core.model import Model
from memfold.core.policy import Policy
from memfold.core.registry import DEFAULT, AnySystem
from memfold.core.types import Memory, SamplingParams
from memfold.endpoint.model import EndpointModel, is_address, open_endpoint
from memfold.endpoint.policy import EndpointPolicy
from memfold.memory import Manifest, check_readable

# what a memory records beside its system's settings, for `inspect`
DESCRIPTIVE = ("model", "hidden_size", "kv_bytes_per_token")
GREETING, GREETING_TOKENS = "Reply with the word yes.", 8


@dataclass(frozen=True)
class Session:
    """A system made for a model; what folds and what answers."""

    system: AnySystem
    model: Model

    @property
    def settings(self) -> dict[str, Any]:
        """The system's settings and what is known of the model, as a memory records them."""
        described = (self.model.name, self.model.hidden_size, self.model.kv_bytes_per_token)
        known = {name: value for name, value in zip(DESCRIPTIVE, described, strict=True) if value}
        return self.system.settings | known

    def policy(self) -> Policy:
        """What answers for the model."""
        return policy_of(self.model)


def policy_of(model: Model, batch_positions: int = BATCH_POSITIONS) -> Policy:
    """What answers for a model: its endpoint where it has one, else this process, so many token positions at a time."""
    if isinstance(model, EndpointModel):
        return EndpointPolicy(model)
    return LocalPolicy(model.weights(), batch_positions)


def check_reached(model: Model) -> None:
    """Raise a `CallError` when the model is behind an address where nothing answers."""
    if isinstance(model, EndpointModel):
        (reply,) = EndpointPolicy(model).ask([GREETING], SamplingParams(max_tokens=GREETING_TOKENS))
        if isinstance(reply, CallError):
            raise reply


def open_session(
    system: str = DEFAULT, model: str = TINY, ratio: int | None = None, device: str = "cpu", dtype: str = "float32"
) -> Session:
    """A system by name for a model by name."""
    registry.system_class(system)  # before the model is loaded: a wrong name is told at once
    loaded = load(model, device, dtype)
    return Session(make_system(system, loaded, ratio), loaded)


def session_for(
    memory: Memory | Manifest,
    model: str = TINY,
    system: str | None = None,
    ratio: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> Session:
    """The system that a memory was made with, for the model that made it; `system` and `ratio` are the memory's own.

    Raises:
        DataError: for another model, system or ratio; both values are named.
    """
    loaded = load(model, device, dtype)
    check_readable(memory, system=system or memory.system, fingerprints=loaded.readable, settings={})
    folded = rebuild(memory.system, memory.settings).ratio
    if ratio not in (None, folded):
        raise DataError(f"the memory has ratio {folded}, the reader {ratio}; fold again or leave the ratio out")
    reader = registry.make_system(memory.system, loaded)
    if reader.ratio != folded:
        reader = make_system(memory.system, loaded, folded)
    check_readable(memory, system=memory.system, fingerprints=loaded.readable, settings=reader.fixed)
    if isinstance(memory, Memory):
        reader.check_memory(memory)
    return Session(reader, loaded)


def make_system(name: str, model: Model, ratio: int | None = None) -> AnySystem:
    """A system with the settings that the model was trained with for it.

    Raises:
        ConfigError: for a ratio that the model was not trained for, or that the system does not have.
    """
    system = registry.make_system(name, model)
    if ratio is None:
        return system
    record = model.trained.get(name, {})
    chosen = system.at_ratio(ratio)
    if not chosen.trained_at(record):
        known = ", ".join(map(str, system.trained_ratios(record)))
        raise ConfigError(f"ratio {ratio} is not one that model {model.name!r} was trained for; its ratios: {known}")
    return chosen


def rebuild(name: str, settings: Mapping[str, Any]) -> AnySystem:
    """A system from the settings that a memory records."""
    own = {key: value for key, value in settings.items() if key not in DESCRIPTIVE}
    return registry.system_class(name).of(own)


def load(model: str, device: str = "cpu", dtype: str = "float32") -> Model:
    """A model by name, loaded once; one behind an address is taken at its word until it is asked."""
    if is_address(model):
        return open_endpoint(model)
    where = resolve_model(model)
    backbone = _load(where, device, dtype)
    backbone.name = TINY if model == TINY else _label(where)
    return backbone


@lru_cache(maxsize=2)
def _load(where: str, device: str, dtype: str) -> Backbone:
    transformers_logging.set_verbosity_error()
    return load_backbone(where, device, dtype)


def _label(where: str) -> str:
    """The name of a Hugging Face model, or of a model folder: a run's without its `model`."""
    path = Path(where)
    if not path.is_dir():
        return where
    path = path.resolve()
    path = path.parent if path.name == "model" else path
    return f"{path.parent.name}/{path.name}" if path.name.startswith("step-") else path.name
