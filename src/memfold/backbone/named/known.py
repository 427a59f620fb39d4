"""Models that memfold is known to work with: what they are for, whether they are here, and what they need.

Any other causal language model works too (docs/models.md).  Sizes are those of the weights in bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass

from memfold.backbone.named.smollm2 import MODEL as SMOLLM2
from memfold.backbone.named.table import NAMED, TINY, named_model
from memfold.backbone.record import read_record
from memfold.backbone.resolve import in_cache
from memfold.core.errors import CheckpointError
from memfold.core.registry import PUBLISHED


@dataclass(frozen=True)
class KnownModel:
    """A model by the name that `--model` takes.

    `systems` are the memory systems that it was trained for; none if it reads text only.  `gigabytes` of weights take
    as much disk and, when it is loaded, memory.  `get` is how to have it here.
    """

    name: str
    about: str
    systems: tuple[str, ...]
    gigabytes: float
    get: str

    @property
    def is_present(self) -> bool:
        """Whether the model is installed, or in the local cache of the hub."""
        if self.name in NAMED:
            try:
                named_model(self.name).check()
            except CheckpointError:
                return False
            return True
        return in_cache(self.name)


def _shipped() -> KnownModel:
    record = read_record(named_model(TINY).folder(), TINY)
    assert record is not None, "the shipped model was trained here"
    return KnownModel(
        TINY, "ships with memfold; reads generated text only", tuple(record.trained), 0.05, "pip install memfold"
    )


def _published(name: str, about: str, gigabytes: float) -> KnownModel:
    return KnownModel(name, about, (PUBLISHED[name],), gigabytes, f"hf download {name}")


MODELS = (
    _shipped(),
    KnownModel("smollm2", "English, 135M parameters, window 8,192", (), 0.3, SMOLLM2.install),
    _published("latent-context/0.6b-4b-LCLM-4x", "slots of 4 tokens, encoder 0.6B, decoder 4B", 9.2),
    _published("latent-context/0.6b-4b-LCLM-8x", "slots of 8 tokens, encoder 0.6B, decoder 4B", 9.2),
    _published("latent-context/0.6b-4b-LCLM-16x", "slots of 16 tokens, encoder 0.6B, decoder 4B", 9.2),
    _published("lerverson/LycheeMemory-7B", "blocks of 4,096 tokens, ratio 4, no gate", 15.5),
    _published("BytedTsinghua-SIA/RL-MemoryAgent-7B", "notes, window 32,768", 15.2),
    _published("BytedTsinghua-SIA/RL-MemoryAgent-14B", "notes, window 32,768", 29.5),
)
