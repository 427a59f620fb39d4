"""Sessions: a system together with a model, opened by name or for a given memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memfold.backbone.device import check_device, check_dtype
from memfold.backbone.named.table import NAMED, TINY
from memfold.backbone.published import published_record, published_system
from memfold.backbone.record import SETTINGS_FILE, read_record
from memfold.backbone.resolve import resolve_model
from memfold.core import registry
from memfold.core.document import Document
from memfold.core.errors import CallError, CheckpointError, ConfigError, DataError
from memfold.core.model import Model, ModelRecord
from memfold.core.policy import Policy
from memfold.core.registry import AnySystem, encoder_of
from memfold.core.types import Memory, SamplingParams
from memfold.endpoint.model import EndpointModel, is_address, open_endpoint
from memfold.memory import Manifest, check_readable, check_system
from memfold.memory.manifest import DESCRIPTIVE

if TYPE_CHECKING:
    from memfold.backbone.model import Backbone

GREETING, GREETING_TOKENS = "Reply with the word yes.", 8
CPU, FLOAT32 = "cpu", "float32"  # where a model runs, and in which data type, unless the caller says otherwise


@dataclass(frozen=True)
class ModelSource:
    """The arguments that a model was loaded with."""

    model: str
    device: str
    dtype: str

    def load(self) -> Model:
        """Load the model; it is the same object if it was loaded in this process before."""
        return load(self.model, self.device, self.dtype)


@dataclass(frozen=True)
class Session:
    """A system together with the model that folds and answers.

    A session with a `source` is pickled without the weights: the model is loaded again.  Copies share the model.
    """

    system: AnySystem
    model: Model
    source: ModelSource | None = None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | ({} if self.source is None else {"model": None})

    def __setstate__(self, state: dict[str, Any]) -> None:
        source: ModelSource | None = state["source"]
        self.__dict__.update(state | ({} if source is None else {"model": source.load()}))

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the system and the known properties of the model, as recorded in a memory."""
        parts = self.system.slot_parts(self.model)
        sizes = (self.model.hidden_size, self.model.kv_bytes_per_token, parts if parts > 1 else 0)
        properties = (self.model.name, *sizes)
        known_properties = {name: value for name, value in zip(DESCRIPTIVE, properties, strict=True) if value}
        return self.system.settings | known_properties

    def settled(self, documents: Sequence[Document]) -> Session:
        """Return the session that folds these documents: what depends on their length is decided."""
        return replace(self, system=self.system.settled(documents, self.model))

    def policy(self) -> Policy:
        """Create the policy of the model."""
        return policy_of(self.model)


def policy_of(model: Model, batch_positions: int | None = None) -> Policy:
    """Create the policy of a model; a local one processes up to `batch_positions` token positions per batch."""
    if isinstance(model, EndpointModel):
        from memfold.endpoint.policy import EndpointPolicy

        return EndpointPolicy(model)
    from memfold.backbone.policy import BATCH_POSITIONS, LocalPolicy

    return LocalPolicy(model.weights(), batch_positions or BATCH_POSITIONS)


def check_reached(model: Model) -> None:
    """Raise a `CallError` if the model is behind an endpoint that cannot be reached."""
    if isinstance(model, EndpointModel):
        from memfold.endpoint.policy import EndpointPolicy

        (reply,) = EndpointPolicy(model).ask([GREETING], SamplingParams(max_tokens=GREETING_TOKENS))
        if isinstance(reply, CallError):
            raise reply


def default_system(model: str) -> str:
    """Return the system that is used with a model if none is given (`registry.default_for`), without loading it."""
    record = _record(model)
    if record is None:
        where = resolve_model(model)
        return published_system(where) or registry.published_for(where) or registry.TEXT_DEFAULT
    return registry.default_for(record.trained)


def open_session(
    system: str | None = None,
    model: str = TINY,
    ratio: int | None = None,
    device: str = CPU,
    dtype: str = FLOAT32,
    settings: Mapping[str, Any] | None = None,
) -> Session:
    """Load a model by name and create a system for it, optionally at another ratio and with other settings.

    Without a `system`, it is the one that the model was trained for (`default_system`).
    """
    system = system or default_system(model)
    registry.system_class(system)  # checks the name before the model is loaded
    _check_possible(system, model, ratio, settings)
    source = _source(model, device, dtype)
    loaded = source.load()
    return Session(make_system(system, loaded, ratio, settings), loaded, source)


def _check_possible(system: str, model: str, ratio: int | None, settings: Mapping[str, Any] | None) -> None:
    """Refuse what a model cannot do, as far as that is known without its weights."""
    record = _record(model)
    if record is not None:
        make_system(system, record, ratio, settings)
        return
    name = resolve_model(model)
    if name in registry.PUBLISHED and not Path(name).is_dir():
        return  # what its settings may be depends on files that may not be here yet
    where, trained = Path(name), published_record(name)
    kind = registry.system_class(system)
    made = kind.of(kind.trained_settings(trained.get(system, {})) | dict(settings or {}))
    plain = where.is_dir() and not (where / SETTINGS_FILE).exists()
    if plain and not made.capabilities.untrained and not trained:
        raise CheckpointError(
            f"model {_name(model, str(where))!r} was not trained for system {system!r}; train it for that, or use a "
            f"--system whose memory is text ({', '.join(registry.text_systems())})"
        )


def session_for(
    memory: Memory | Manifest,
    model: str = TINY,
    system: str | None = None,
    ratio: int | None = None,
    device: str = CPU,
    dtype: str = FLOAT32,
) -> Session:
    """Open the session for a memory: load the model and create the system with the settings of the memory.

    A memory of text is read with any model.  `system` and `ratio`, if given, must be those of the memory.

    Raises:
        DataError: for another system or ratio, or slots of another model or size; the message gives both values.
    """
    check_request(memory, model, system, ratio)
    source = _source(model, device, dtype)
    loaded = source.load()
    check_readable(memory, loaded, system=memory.system, settings={})
    memory_ratio = rebuild(memory.system, memory.settings).ratio
    reader = registry.make_system(memory.system, loaded, _kept_settings(memory, loaded))
    if reader.ratio != memory_ratio:
        reader = make_system(memory.system, loaded, memory_ratio)
    check_readable(_complete(memory), loaded, system=memory.system, settings=reader.fixed)
    if isinstance(memory, Memory):
        _check_slot_size(memory, reader, loaded)
        reader.check_memory(memory)
    return Session(reader, loaded, source)


def _kept_settings(memory: Memory | Manifest, model: Model) -> dict[str, Any]:
    """Return the settings that folding fixed in a memory; of those that memfold trained the model for, none."""
    kind = registry.system_class(memory.system)
    fixed = model.trained_here and memory.system in model.trained
    names = kind.kept if fixed else [field.name for field in fields(kind.groups[0])]
    return {name: memory.settings[name] for name in names if name in memory.settings}


def check_request(memory: Memory | Manifest, model: str, system: str | None = None, ratio: int | None = None) -> None:
    """Refuse to open a memory with another system, ratio or model, without loading anything.

    Raises:
        DataError: as `session_for`.
    """
    check_system(memory, system or memory.system)
    memory_ratio = rebuild(memory.system, memory.settings).ratio
    if ratio is not None and memory_ratio is None:
        raise DataError(
            f"ratio {ratio} is not possible: this memory was made by system {memory.system!r}, which keeps the text as "
            "it is; leave the ratio out"
        )
    if ratio not in (None, memory_ratio):
        raise DataError(
            f"this memory was folded at ratio {memory_ratio}, not {ratio}; leave the ratio out, or fold the document "
            "again"
        )
    record = _record(model)
    if record is not None:
        check_readable(memory, record, system=memory.system, settings={})


def check_extends(memory: Memory | Manifest, session: Session) -> None:
    """Check that documents which a session folds can be added to a memory: only the encoder of its slots can do that.

    Raises:
        DataError: for another system, other settings, or slots of another encoder.
    """
    system, model = session.system, session.model
    kept = {name: system.settings[name] for name in system.kept}
    check_readable(_complete(memory), model, system=system.name, settings=system.fixed | kept)
    if memory.fingerprint != encoder_of(system, model) and system.capabilities.slots:
        raise DataError(
            f"model {model.name!r} reads this memory, but another one folded it; append with the model that folded it"
        )


def _complete(memory: Memory | Manifest) -> Memory | Manifest:
    """Return a memory whose settings have the defaults of those that are newer than the memory."""
    return replace(memory, settings={**rebuild(memory.system, memory.settings).settings, **memory.settings})


def _source(model: str, device: str, dtype: str) -> ModelSource:
    """Return the arguments to load a model with, in a form that does not depend on the working directory."""
    is_folder = model not in NAMED and not is_address(model) and Path(model).is_dir()
    return ModelSource(str(Path(model).absolute()) if is_folder else model, device, dtype)


def _check_slot_size(memory: Memory, system: AnySystem, model: Model) -> None:
    """Refuse slots that have another number of values than those that the model reads, or none.

    Raises:
        DataError: with both numbers.
    """
    size = system.slot_size(model)
    for block in memory.blocks if size is not None else ():
        if block.slot_size != size:
            raise DataError(
                f"this memory has slots of {block.slot_size} values, model {model.name!r} reads slots of {size}; use "
                "the model that folded it, or fold the document again"
            )


def _record(model: str) -> ModelRecord | None:
    """Return what is known of a model without loading it; None if that is nothing."""
    if is_address(model):
        return open_endpoint(model)
    location = Path(resolve_model(model))
    return read_record(location, _name(model, str(location))) if location.is_dir() else None


def make_system(
    name: str, model: ModelRecord, ratio: int | None = None, settings: Mapping[str, Any] | None = None
) -> AnySystem:
    """Create a system with the settings that the model was trained with, optionally at another ratio and with others.

    Raises:
        ConfigError: for a ratio that the model was not trained at, or a system without ratios.
    """
    system = registry.make_system(name, model, settings)
    if ratio is None:
        return system
    trained = system.trained_ratios(model.trained.get(name, {}))
    if trained and ratio not in trained:
        allowed = ", ".join(map(str, trained))
        raise ConfigError(f"ratio {ratio} is not one that model {model.name!r} was trained at; allowed: {allowed}")
    return system.at_ratio(ratio)


def rebuild(name: str, settings: Mapping[str, Any]) -> AnySystem:
    """Create a system from the settings that a memory records."""
    system_settings = {key: value for key, value in settings.items() if key not in DESCRIPTIVE}
    return registry.system_class(name).of(system_settings)


def load(model: str, device: str = CPU, dtype: str = FLOAT32) -> Model:
    """Load a model by name, folder or address; local models are cached, and an endpoint is not contacted yet.

    Raises:
        ConfigError: for an endpoint on a device or in a dtype that the caller chose.
    """
    if is_address(model):
        _check_place(device, dtype)
        return open_endpoint(model)
    check_device(device)
    check_dtype(dtype)
    location = resolve_model(model)
    backbone = _load(location, device, dtype)
    backbone.name = _name(model, location)
    return backbone


def _check_place(device: str, dtype: str) -> None:
    """Refuse another device or dtype than the usual one for a model behind an endpoint."""
    for name, value, usual in (("device", device, CPU), ("dtype", dtype, FLOAT32)):
        if value != usual:
            raise ConfigError(
                f"{name} {value!r} has no effect: an endpoint chooses its own device and dtype; leave the {name} out"
            )


@lru_cache(maxsize=2)
def _load(location: str, device: str, dtype: str) -> Backbone:
    from transformers.utils import logging as transformers_logging

    from memfold.backbone.folder import load_backbone

    transformers_logging.set_verbosity_error()
    return load_backbone(location, device, dtype, roles=False)


def _name(model: str, location: str) -> str:
    """Return the name of a named model, the id of a Hugging Face model, or the name of a model folder or run folder."""
    if model in NAMED:
        return model
    path = Path(location)
    if not path.is_dir():
        return location
    path = path.resolve()
    path = path.parent if path.name == "model" else path
    return f"{path.parent.name}/{path.name}" if path.name.startswith("step-") else path.name
