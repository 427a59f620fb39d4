"""Lists the files that a command reads, so that it does not write over one of them."""

from __future__ import annotations

from pathlib import Path


def model_files(model: str) -> list[Path]:
    """Return the files of a local model; none for a Hugging Face id or an endpoint.

    Raises:
        CheckpointError: for a folder without a model.
    """
    from memfold.backbone.named.table import NAMED
    from memfold.backbone.resolve import resolve_model
    from memfold.sources import MEMORY_SUFFIX

    if model not in NAMED and not _is_folder(model):
        return []
    files = Path(resolve_model(model)).rglob("*")
    return [path for path in files if path.suffix != MEMORY_SUFFIX and path.is_file()]


def _is_folder(name: str) -> bool:
    try:
        return Path(name).expanduser().is_dir()
    except (OSError, ValueError, RuntimeError):  # a name that no path can have
        return False
