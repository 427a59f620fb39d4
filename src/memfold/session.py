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
from memfold.core.errors import CallError, ConfigError
from memfold.core.system import MemorySystem, Policy
from memfold.core.types import Limits, Memory
from memfold.endpoint.model import RemoteBackbone, is_address, open_remote
from memfold.endpoint.policy import EndpointPolicy
from memfold.memory import Manifest, check_readable

# what a memory records beside its system's settings, for `inspect`
DESCRIPTIVE = ("model", "hidden_size", "kv_bytes_per_token")
# settings in which a reader may differ from the fold: how a question is answered, and how a text was cut
ANSWERING = ("style", "cite", "unfold")
FREE = (*ANSWERING, "chunk")
GREETING, GREETING_TOKENS = "Reply with the word yes.", 8


@dataclass(frozen=True)
class Session:
    """A system made for a backbone; what folds and what answers."""

    system: MemorySystem
    backbone: Backbone

    @property
    def settings(self) -> dict[str, Any]:
        """The system's settings and what is known of the model, as a memory records them."""
        described = (self.backbone.name, self.backbone.hidden_size, self.backbone.kv_bytes_per_token)
        known = {name: value for name, value in zip(DESCRIPTIVE, described, strict=True) if value}
        return self.system.settings | known

    def effective_ratio(self, tokens: int) -> float | None:
        """Tokens for each position that the decoder sees; None for systems that do not read all of their memory."""
        return self.system.effective_ratio(tokens)

    def policy(self) -> Policy:
        """What answers for the model."""
        return policy_of(self.backbone)


def policy_of(backbone: Backbone, batch_positions: int = BATCH_POSITIONS) -> Policy:
    """What answers for a model: its endpoint where it has one, else this process, in batches of so many places."""
    if isinstance(backbone, RemoteBackbone):
        return EndpointPolicy(backbone)
    return LocalPolicy(backbone, batch_positions)


def check_reached(backbone: Backbone) -> None:
    """Raise a `CallError` when the model is behind an address where nothing answers."""
    if isinstance(backbone, RemoteBackbone):
        (reply,) = EndpointPolicy(backbone).ask([GREETING], Limits(max_tokens=GREETING_TOKENS))
        if isinstance(reply, CallError):
            raise reply


def open_session(system: str = "pooled", model: str = TINY, ratio: int | None = None, device: str = "cpu",
           dtype: str = "float32") -> Session:  # fmt: skip
    """A system by name for a model by name."""
    registry.system_class(system)  # before the model is loaded: a wrong name is told at once
    backbone = load(model, device, dtype)
    return Session(make_system(system, backbone, ratio), backbone)


def session_for(memory: Memory | Manifest, model: str = TINY, system: str | None = None, ratio: int | None = None,
               device: str = "cpu", dtype: str = "float32") -> Session:  # fmt: skip
    """The system that a memory was made with, for the model that made it; `system` and `ratio` are the memory's own.

    Raises:
        DataError: for another model, system or ratio; both values are named.
    """
    backbone = load(model, device, dtype)
    asked = {} if ratio is None else {"ratio": ratio}
    fingerprints = backbone.readable
    check_readable(memory, system=system or memory.system, fingerprints=fingerprints, settings=asked)
    reader = make_system(memory.system, backbone, memory.settings.get("ratio"))
    fixed = {name: reader.settings[name] for name in _fixed(reader, backbone)}
    check_readable(memory, system=memory.system, fingerprints=fingerprints, settings=fixed)
    return Session(reader, backbone)


def make_system(name: str, backbone: Backbone, ratio: int | None = None) -> MemorySystem:
    """A system with the settings that the backbone was trained with for it.

    Raises:
        ConfigError: for a ratio that the backbone was not trained for, or that the system does not have.
    """
    system = registry.make_system(name, backbone)
    if ratio is None:
        return system
    if "ratio" not in system.settings:
        raise ConfigError(f"ratio {ratio} is not possible: system {name!r} keeps the text as it is")
    ratios = registry.trained_ratios(name, backbone)
    if ratios and ratio not in ratios:
        known = ", ".join(map(str, ratios))
        raise ConfigError(f"ratio {ratio} is not one that model {backbone.name!r} was trained for; its ratios: {known}")
    return registry.make_system(name, backbone, {"ratio": ratio})


def rebuild(name: str, settings: Mapping[str, Any]) -> MemorySystem:
    """A system from the settings that a memory records."""
    own = {key: value for key, value in settings.items() if key not in DESCRIPTIVE}
    return registry.system_class(name)(**own)  # type: ignore[no-any-return]


def load(model: str, device: str = "cpu", dtype: str = "float32") -> Backbone:
    """A model by name, loaded once; one behind an address is taken at its word until it is asked."""
    if is_address(model):
        return open_remote(model)
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


def _fixed(system: MemorySystem, backbone: Backbone) -> list[str]:
    """The settings that a memory and its reader must share: those that the backbone was trained with."""
    trained = {"ratio", "chat_template", *backbone.trained.get(system.name, {})}
    return [name for name in system.settings if name in trained and name not in FREE]
