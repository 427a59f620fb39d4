"""Opens what `memfold ask` is given: a memory file, or documents, which are folded first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memfold.backbone.named.table import TINY
from memfold.cli.options import BUDGET, model_dtype, system_or_default
from memfold.core.errors import ConfigError
from memfold.core.registry import DEFAULT, AnySystem, has_slots, system_class

if TYPE_CHECKING:
    from memfold.api import FoldedMemory
    from memfold.memory import Manifest


def check_rereads(unfold: bool | None, budget: int | None, system: AnySystem) -> None:
    """Refuse to read text again with a system that reads nothing but the text."""
    if unfold:
        system.unfolding(budget or BUDGET)  # raises for such a system
    given = "--no-unfold" if unfold is False else None if budget is None else f"--budget {budget}"
    if given is not None and not system.capabilities.unfolds:
        raise ConfigError(f"{given} has no effect on system {system.name!r}, which reads nothing again; leave it out")


def _tell_reader(manifest: Manifest, source: str, model: str) -> None:
    """Say that the usual model reads a text that was folded with another: the file does not choose its reader."""
    from memfold.cli.output import notes

    folded = manifest.settings.get("model")
    if model == TINY and folded not in (None, TINY) and not has_slots(manifest.system):
        notes().print(f"--model {model}: {source} was folded with {folded}, which reads it too", markup=False)


def open_or_fold(
    source: str,
    system: str | None,
    model: str,
    ratio: int | None,
    device: str,
    settings: Mapping[str, Any],
    check: Callable[[AnySystem], None],
) -> FoldedMemory:
    """Open a memory file, or fold a document; the system is checked before the model is loaded."""
    from memfold import api
    from memfold.cli.documents import distinct_inputs, open_inputs
    from memfold.cli.output import folding
    from memfold.memory.reader import read_manifest
    from memfold.session import open_session
    from memfold.sources import is_memory

    dtype = model_dtype(device)
    if source != "-" and is_memory(Path(source)):
        manifest = read_manifest(source)  # None if it cannot be read; opening it says why
        check(system_class(manifest.system if manifest else DEFAULT)())
        if manifest is not None:
            _tell_reader(manifest, source, model)
        memory = api.open(source, model=model, system=system, ratio=ratio, device=device, dtype=dtype)
        return memory.answering(**settings)
    system = system_or_default(system, model)
    check(system_class(system)())
    inputs = distinct_inputs(open_inputs([source]))
    session = open_session(system, model, ratio, device, dtype, settings)
    with folding(inputs.documents) as progress:
        return api.fold_documents(inputs.documents, session, progress, inputs.skipped)
