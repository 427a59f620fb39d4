"""Loads the weights of a model, and checks that they match its configuration exactly."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.utils import logging

from memfold.core.errors import CheckpointError

NAMED = 3  # names listed in a message; the others are counted
SMALL = 1 << 26  # bytes of weights that are loaded directly
WEIGHTS, GENERATION = "model.safetensors", "generation_config.json"


def load_weights(
    where: str | Path, dtype: torch.dtype, offline: bool = False, own: tuple[str, ...] = (), tied: bool = False
) -> PreTrainedModel:
    """Load the model of a folder or a Hugging Face id, which `offline` is taken from the local cache.

    Weights whose name contains one of `own` belong to a memory system and are left out.  If `tied` is true, the output
    layer is the embedding, whatever the configuration says: a model without an output layer needs none.

    The load report of `transformers`, which has several lines, is suppressed.

    Raises:
        CheckpointError: for weights that are missing, unexpected or of the wrong shape; the message names some of them.
    """
    small = _load_small(Path(where), dtype)
    if small is not None:
        return small
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(where),
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            local_files_only=offline,
            use_safetensors=True,
            trust_remote_code=False,  # otherwise it asks at a terminal whether to run it
            **({"tie_word_embeddings": True} if tied else {}),
        )
    finally:
        logging.set_verbosity(verbosity)
    model, report = loaded
    wrong = [entry[0] for entry in report["mismatched_keys"]]
    extra = [name for name in report["unexpected_keys"] if not any(part in name for part in own)]
    check_names(where, report["missing_keys"], extra, wrong)
    return model  # type: ignore[no-any-return]


def _load_small(folder: Path, dtype: torch.dtype) -> PreTrainedModel | None:
    """Load a small model whose file has exactly the names and shapes of the model; None for any other folder.

    The result is that of `from_pretrained`, which takes several times as long for a small model: it first builds the
    model without memory, for which PyTorch imports a computer algebra system.
    """
    file = folder / WEIGHTS
    if not file.is_file() or file.stat().st_size > SMALL:
        return None
    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    if getattr(config, "quantization_config", None) is not None:
        return None
    with no_init_weights():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    weights, own = load_file(file), model.state_dict()
    if {name: weight.shape for name, weight in weights.items()} != {name: weight.shape for name, weight in own.items()}:
        return None
    model.load_state_dict(weights)
    model.tie_weights()
    if (folder / GENERATION).exists():
        model.generation_config = GenerationConfig.from_pretrained(str(folder))
    model.eval()
    return model


def check_names(where: object, missing: Iterable[str], extra: Iterable[str], wrong: Iterable[str] = ()) -> None:
    """Check that no weights are missing, unexpected (`extra`) or of the wrong shape (`wrong`).

    Raises:
        CheckpointError: if there are any; the message names some of them.
    """
    problems = {"missing": sorted(missing), "unexpected": sorted(extra), "of the wrong shape": sorted(wrong)}
    lists = [f"{problem}: {_listed(names)}" for problem, names in problems.items() if names]
    if lists:
        raise CheckpointError(f"the weights in {where} do not match its configuration; {'; '.join(lists)}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
