"""The weights of a model from its files: all that its configuration has, and no others."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from memfold.core.errors import CheckpointError

NAMED = 3  # names in a message, then their number


def load_weights(where: str | Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model of a folder or a Hugging Face id.  The library's own report of what does not fit has many lines.

    Raises:
        CheckpointError: for weights that are missing, too many, or of another size, naming them.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(where), dtype=dtype, attn_implementation="sdpa", output_loading_info=True, ignore_mismatched_sizes=True
        )
    finally:
        logging.set_verbosity(verbosity)
    model, found = loaded
    sizes = [entry[0] for entry in found["mismatched_keys"]]
    check_names(where, found["missing_keys"], found["unexpected_keys"], sizes)
    return model  # type: ignore[no-any-return]


def check_names(where: object, missing: Iterable[str], extra: Iterable[str], wrong: Iterable[str] = ()) -> None:
    """Refuse weights that are not those of the model.

    Raises:
        CheckpointError: in one line that names some of them.
    """
    found = {"missing": sorted(missing), "extra": sorted(extra), "of another size": sorted(wrong)}
    lists = [f"{what}: {_listed(names)}" for what, names in found.items() if names]
    if lists:
        raise CheckpointError(f"the weights in {where} are not those of its configuration; {'; '.join(lists)}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
