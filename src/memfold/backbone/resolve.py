"""Resolves the name of a model: a named model such as `tiny`, a model or run folder, or a Hugging Face id.

Models behind an address are handled by `memfold.endpoint.model`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from threading import Thread

from memfold.backbone.named.table import NAMED, TINY, named_model
from memfold.core.errors import CheckpointError, ConfigError, unknown

CONFIG_FILE = "adapter_config.json"  # of a LoRA adapter
# one of them is in the folder of every model: of a causal LM, an adapter, or a model in several folders
MODEL_FILES = ("config.json", CONFIG_FILE, "model_config.json")
HUB_SECONDS = 1.2  # for the hub to say whether it has a model
_ADDRESS = re.compile(r"[\w.-]+:\d+(/|#|$)|[^#]*/v1/?#|localhost/")
_IDENTIFIER = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def resolve_model(name: str) -> str:
    """Return the model folder or the Hugging Face id that `load_backbone` loads for a name.

    Raises:
        ConfigError: for an address, and for a name that is neither that of a named model, a folder nor an id.
        CheckpointError: if a named model cannot be had, or a folder holds no model.
    """
    if name.startswith(("http://", "https://")):
        raise ConfigError(f"model {name!r} is an endpoint, but its weights are needed here; use a folder or a model id")
    if name in NAMED:
        return str(named_model(name).folder())
    if _is_folder(name):
        return str(model_folder(Path(name).expanduser()))
    if _ADDRESS.match(name):
        raise ConfigError(f"model {name!r} looks like the address of an endpoint; write http://{name}")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise CheckpointError(f"no model at {name!r}; give {TINY!r}, a model folder or a Hugging Face id")
    if "/" not in name:
        raise unknown("model", name, NAMED)
    if not _IDENTIFIER.fullmatch(name):
        raise ConfigError(f"model {name!r} is neither a folder nor a Hugging Face id; write OWNER/NAME")
    return name


def _is_folder(name: str) -> bool:
    try:
        return Path(name).expanduser().is_dir()
    except (OSError, ValueError, RuntimeError):  # a name that no path can have
        return False


def in_cache(name: str) -> bool:
    """Return whether the local cache of the hub has a model."""
    from huggingface_hub import try_to_load_from_cache

    return any(isinstance(try_to_load_from_cache(name, file), str) for file in MODEL_FILES)


@lru_cache
def hub_has(name: str) -> bool:
    """Return whether the hub was reached and has the model; if not, the model is in the local cache.

    The hub is asked once, with a short timeout, because loading retries for a minute if there is no network.

    Raises:
        CheckpointError: for a model that is neither on the hub nor in the cache.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    cached = in_cache(name)
    problem, unreachable = "HF_HUB_OFFLINE is set; download it first", f"{constants.ENDPOINT} cannot be reached"
    try:
        if not constants.HF_HUB_OFFLINE:
            _in_time(lambda: get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=HUB_SECONDS))
            return True
    except LocalEntryNotFoundError:
        problem = f"{unreachable}; give a model folder"
    except EntryNotFoundError:  # for an adapter, which has another configuration file
        return True
    except GatedRepoError:
        problem = "access to it is restricted; request access and log in to Hugging Face"
    except RepositoryNotFoundError:
        problem = "Hugging Face does not have it; check its name"
    except Exception:  # no network, a proxy that refuses, a hub that does not answer
        problem = f"{unreachable}; give a model folder"
    if not cached:
        raise CheckpointError(f"model {name!r} is neither a folder nor in the local cache, and {problem}")
    return False


def check_model(name: str) -> None:
    """Check that the weights of a model can be found, which takes at most a few seconds.

    Raises:
        ConfigError, CheckpointError: as `resolve_model` and `hub_has`.
    """
    if name in NAMED:
        named_model(name).check()
        return
    where = resolve_model(name)
    if not Path(where).is_dir():
        hub_has(where)


def _in_time(ask: Callable[[], object]) -> None:
    """Call a function in another thread, and raise its error, or a `TimeoutError` after `HUB_SECONDS`.

    Name resolution and connection retries may take longer than the timeout of a request.
    """
    errors: list[BaseException] = []

    def run() -> None:
        try:
            ask()
        except Exception as error:
            errors.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    if thread.is_alive():
        raise TimeoutError
    if errors:
        raise errors[0]


def model_folder(where: str | Path) -> Path:
    """Return the model folder inside a run folder (from its newest checkpoint), or the folder itself if it is a model.

    The name of a named model, such as `tiny`, stands for that model, unless there is a folder of this name.

    Raises:
        CheckpointError: if the folder holds no model.
    """
    folder = Path(where)
    if str(where) in NAMED and not folder.is_dir():
        return named_model(str(where)).folder()
    candidates = [folder / "model", *sorted(folder.glob("step-??????/model"), reverse=True), folder]
    for candidate in candidates:
        if any((candidate / file).exists() for file in MODEL_FILES):
            return candidate
    raise CheckpointError(f"no model in {where}; train its recipe first, or name a model folder or {TINY!r}")
