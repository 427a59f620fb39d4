"""Resolves the name of a model: the shipped `tiny`, a model or run folder, or a Hugging Face id.

Models behind an address are handled by `memfold.endpoint.model`.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from memfold.backbone.adapters import CONFIG_FILE
from memfold.core.errors import CheckpointError, ConfigError, unknown

TINY = "tiny"
RECIPE = "recipes/pooled/tiny/base.toml"


def resolve_model(name: str) -> str:
    """Return the model folder or the Hugging Face id that `load_backbone` loads for a name.

    Raises:
        ConfigError: for an address, and for a name without a slash that is neither `tiny` nor a folder.
        CheckpointError: if `tiny` is not in the package, or a folder holds no model.
    """
    if name.startswith(("http://", "https://")):
        raise ConfigError(f"model {name!r} is an endpoint, but its weights are needed here; use a folder or a model id")
    if name == TINY:
        return _tiny()
    if Path(name).expanduser().is_dir():
        return str(model_folder(Path(name).expanduser()))
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise CheckpointError(f"no model at {name!r}; give 'tiny', a model folder or a Hugging Face id")
    if "/" not in name:
        raise unknown("model", name, (TINY,))
    return name


def model_folder(where: str | Path) -> Path:
    """Return the model folder inside a run folder (from its newest checkpoint), or the folder itself if it is a model.

    Raises:
        CheckpointError: if the folder holds no model.
    """
    folder = Path(where)
    candidates = [folder / "model", *sorted(folder.glob("step-??????/model"), reverse=True), folder]
    for candidate in candidates:
        if (candidate / "config.json").exists() or (candidate / CONFIG_FILE).exists():
            return candidate
    raise CheckpointError(f"no model in {where}; train its recipe first or give a folder with a config.json")


def _tiny() -> str:
    folder = Path(str(resources.files("memfold"))) / "assets" / TINY
    if not (folder / "config.json").exists():
        raise CheckpointError(
            f"the model 'tiny' is not in {folder}; train it (memfold train {RECIPE}) and use its run folder as --model"
        )
    return str(folder)
