"""Model folders in the layouts of other programs: which there are, and how one is recognised and loaded.

A layout belongs to a memory system, whose folder has its loader (`memfold.core.registry.LAYOUTS`).  The weights are
read where they are; nothing is converted or copied.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from memfold.core.errors import CheckpointError
from memfold.core.registry import LAYOUTS, load

if TYPE_CHECKING:
    from torch import Tensor

    from memfold.backbone.model import Backbone

INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"
CHECKPOINT = re.compile(r"checkpoint_([0-9]+)")  # folders of a training run
FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model")  # of a model on a hub: no pickled weights


@dataclass(frozen=True)
class Source:
    """Where a model is loaded from, and how: `name` is what the user wrote."""

    name: str
    folder: Path
    device: str
    dtype: str


class Layout(Protocol):
    """A layout of model folders.

    `marker` is the file whose content tells it, `folders` are those that stand beside it, and `system` is what its
    models are trained for.
    """

    marker: str
    folders: tuple[str, ...]
    system: str

    def matches(self, content: Mapping[str, Any]) -> bool:
        """Return whether a folder has this layout, by the content of its marker."""
        ...

    def record(self, name: str, folder: Path) -> dict[str, Any]:
        """Return what the weights of a folder were trained for, without reading them; `name` is for messages.

        Raises:
            CheckpointError: as `load`, for options that are not supported.
        """
        ...

    def load(self, source: Source) -> Backbone:
        """Load the model of a folder.

        Raises:
            CheckpointError: for a folder that is damaged or has options that are not supported; the message names them.
        """
        ...


def load_published(where: str | Path, device: str, dtype: str, offline: bool) -> Backbone | None:
    """Load a model in one of the known layouts, from a folder or a Hugging Face id; None for any other model.

    Raises:
        CheckpointError: as `Layout.load`.
    """
    layout = _layout(where, offline)
    if layout is None:
        return None
    return layout.load(Source(str(where), _parts(where, layout, offline), device, dtype))


def published_system(where: str | Path) -> str | None:
    """Return the system of a model in one of the known layouts, in a folder or the local cache; None for any other."""
    layout = _layout(where, offline=True)
    return None if layout is None else layout.system


def published_record(where: str | Path) -> dict[str, Any]:
    """Return what such a model was trained for, by the name of its system, without reading its weights.

    It is empty for a model in none of the known layouts, or one that is neither in a folder nor in the local cache.

    Raises:
        CheckpointError: for options that are not supported.
    """
    layout = _layout(where, offline=True)
    if layout is None:
        return {}
    return {layout.system: layout.record(str(where), _parts(where, layout, offline=True))}


def check_options(model: str, config: Mapping[str, Any], required: Mapping[str, Any]) -> None:
    """Refuse a configuration with options that are computed in another way; an option that it lacks is as required.

    Raises:
        CheckpointError: with the name of the option and both values.
    """
    for name, value in required.items():
        if config.get(name, value) != value:
            raise CheckpointError(f"model {model!r} has {name} = {config[name]!r}; only {value!r} is supported")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        CheckpointError: if there is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not hold a JSON object")
    return content


def read_tensors(folder: Path, wanted: str, file: str = WEIGHTS) -> dict[str, Tensor]:
    """Return the tensors of a folder whose name contains `wanted`; `file` holds them, or the files of an index do.

    Raises:
        CheckpointError: for a file that is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    from memfold.backbone.model_files import AGAIN, check_pickled

    files = {file}
    if (folder / INDEX).exists():
        names: dict[str, str] = read_json(folder / INDEX).get("weight_map", {})
        files = {part for name, part in names.items() if wanted in name}
    tensors: dict[str, Tensor] = {}
    for part in sorted(files):
        if not (folder / part).is_file():
            check_pickled(folder, "safetensors.torch.save_file(torch.load(OLD, weights_only=True), NEW)")
            raise CheckpointError(f"{folder} lacks {part}; {AGAIN}")
        try:
            with safe_open(folder / part, "pt") as opened:
                found = [name for name in opened.keys() if wanted in name]  # noqa: SIM118
                tensors |= {name: opened.get_tensor(name) for name in found}
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{folder / part} cannot be read: {str(error).splitlines()[0]}") from None
    return tensors


def _layout(where: str | Path, offline: bool) -> Layout | None:
    """Return the layout of a model; None if it has none of them."""
    for layout in (cast(Layout, load("layout", name, LAYOUTS)) for name in LAYOUTS):
        marker = _file(_whole(Path(where), layout) if Path(where).is_dir() else where, layout.marker, offline)
        if marker is not None and layout.matches(read_json(marker)):
            return layout
    return None


def _parts(where: str | Path, layout: Layout, offline: bool) -> Path:
    """Return the folder with the parts of a model; one that is only on the hub is downloaded, unless `offline`."""
    return _whole(Path(where) if Path(where).is_dir() else _snapshot(str(where), offline), layout)


def _whole(folder: Path, layout: Layout) -> Path:
    """Return the folder that has all parts of a model: the given one, or else its newest `checkpoint_N` that has them.

    If none has them, it is the given one, whose missing parts the loader names.
    """

    def has_all(each: Path) -> bool:
        return (each / layout.marker).is_file() and all((each / name).is_dir() for name in layout.folders)

    if has_all(folder):
        return folder
    numbered = [(int(found[1]), path) for path in folder.iterdir() if (found := CHECKPOINT.fullmatch(path.name))]
    return next((path for _, path in sorted(numbered, reverse=True) if has_all(path)), folder)


def _file(where: str | Path, name: str, offline: bool) -> Path | None:
    if Path(where).is_dir():
        return Path(where) / name if (Path(where) / name).is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(str(where), name, local_files_only=offline))
    except EntryNotFoundError:  # also where it is not in the cache
        return None


def _snapshot(name: str, offline: bool) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=list(FILES), local_files_only=offline))
