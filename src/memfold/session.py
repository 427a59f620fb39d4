"""Sessions: a system together with a model, opened by name or for a given memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
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

# properties of the model that a memory records in addition to the settings of the system, for `memfold inspect`
DESCRIPTIVE = ("model", "hidden_size", "kv_bytes_per_token")
GREETING, GREETING_TOKENS = "Reply with the word yes.", 8


@dataclass(frozen=True)
class Session:
    """A system together with the model that folds and answers."""

    system: AnySystem
    model: Model

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the system and the known properties of the model, as recorded in a memory."""
        properties = (self.model.name, self.model.hidden_size, self.model.kv_bytes_per_token)
        known_properties = {name: value for name, value in zip(DESCRIPTIVE, properties, strict=True) if value}
        return self.system.settings | known_properties

    def policy(self) -> Policy:
        """Create the policy of the model."""
        return policy_of(self.model)


def policy_of(model: Model, batch_positions: int = BATCH_POSITIONS) -> Policy:
    """Create the policy of a model; a local one processes up to `batch_positions` token positions per batch."""
    if isinstance(model, EndpointModel):
        return EndpointPolicy(model)
    return LocalPolicy(model.weights(), batch_positions)


def check_reached(model: Model) -> None:
    """Raise a `CallError` if the model is behind an endpoint that cannot be reached."""
    if isinstance(model, EndpointModel):
        (reply,) = EndpointPolicy(model).ask([GREETING], SamplingParams(max_tokens=GREETING_TOKENS))
        if isinstance(reply, CallError):
            raise reply


def open_session(
    system: str = DEFAULT, model: str = TINY, ratio: int | None = None, device: str = "cpu", dtype: str = "float32"
) -> Session:
    """Load a model by name and create a system for it, optionally at another ratio."""
    registry.system_class(system)  # checks the name before the model is loaded
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
    """Open the session for a memory: load the model and create the system with the settings of the memory.

    `system` and `ratio`, if given, must be those of the memory.

    Raises:
        DataError: for another model, system or ratio; the message gives both values.
    """
    loaded = load(model, device, dtype)
    check_readable(memory, system=system or memory.system, fingerprints=loaded.readable, settings={})
    written = rebuild(memory.system, memory.settings)
    memory_ratio = written.ratio
    if ratio not in (None, memory_ratio):
        raise DataError(f"the memory has ratio {memory_ratio}, the reader {ratio}; fold again or leave the ratio out")
    reader = registry.make_system(memory.system, loaded)
    if reader.ratio != memory_ratio:
        reader = make_system(memory.system, loaded, memory_ratio)
    complete = replace(
        memory, settings={**written.settings, **memory.settings}
    )  # settings that are newer have defaults
    check_readable(complete, system=memory.system, fingerprints=loaded.readable, settings=reader.fixed)
    if isinstance(memory, Memory):
        reader.check_memory(memory)
    return Session(reader, loaded)


def make_system(name: str, model: Model, ratio: int | None = None) -> AnySystem:
    """Create a system with the settings that the model was trained with, optionally at another ratio.

    Raises:
        ConfigError: for a ratio that the model was not trained at, or a system without ratios.
    """
    system = registry.make_system(name, model)
    if ratio is None:
        return system
    record = model.trained.get(name, {})
    chosen = system.at_ratio(ratio)
    if not chosen.trained_at(record):
        trained = ", ".join(map(str, system.trained_ratios(record)))
        raise ConfigError(f"ratio {ratio} is not one that model {model.name!r} was trained at; allowed: {trained}")
    return chosen


def rebuild(name: str, settings: Mapping[str, Any]) -> AnySystem:
    """Create a system from the settings that a memory records."""
    system_settings = {key: value for key, value in settings.items() if key not in DESCRIPTIVE}
    return registry.system_class(name).of(system_settings)


def load(model: str, device: str = "cpu", dtype: str = "float32") -> Model:
    """Load a model by name, folder or address; local models are cached, and an endpoint is not contacted yet."""
    if is_address(model):
        return open_endpoint(model)
    location = resolve_model(model)
    backbone = _load(location, device, dtype)
    backbone.name = TINY if model == TINY else _label(location)
    return backbone


@lru_cache(maxsize=2)
def _load(location: str, device: str, dtype: str) -> Backbone:
    transformers_logging.set_verbosity_error()
    return load_backbone(location, device, dtype)


def _label(location: str) -> str:
    """Return the id of a Hugging Face model, or the name of a model folder or of the run folder that contains it."""
    path = Path(location)
    if not path.is_dir():
        return location
    path = path.resolve()
    path = path.parent if path.name == "model" else path
    return f"{path.parent.name}/{path.name}" if path.name.startswith("step-") else path.name
