"""The architectures that were compared with their own forward pass in `transformers`, and what was found.

`tests/backbone/test_architectures.py` makes the comparison with a small model of each and fails if this table is
wrong; docs/models.md shows it.  The numbers of an architecture that is not in the table, or whose numbers depend on its
configuration, are compared when the model is first used (`memfold.backbone.parity`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RowLayout = Literal["packed", "padded", "alone"]


@dataclass(frozen=True)
class Fit:
    """What can be computed with an architecture so that the numbers are those of its own forward pass.

    `rows` is how rows can be combined in a batch.  `packed`: in any way, because every position has a position id and
    keys and values of its own.  `padded`: one below the other, because the distance between positions is counted in the
    batch.  `alone`: not with others, because padding would change the state of a layer.  Only packed rows can attend to
    a prefix of keys and values.  `slots` tells whether the model can read embeddings that are not those of tokens.
    """

    rows: RowLayout
    slots: bool = True


_PACKED = """
afmoe apertus arcee biogpt bitnet codegen cohere cohere2 cwm deepseek_v2 deepseek_v3 diffllama doge dots1 ernie4_5
ernie4_5_moe exaone4 flex_olmo gemma gemma2 gemma3 gemma3_text glm glm4 glm4_moe gpt2 gpt_bigcode gpt_neox gpt_oss
gptj granite granitemoe granitemoeshared helium hunyuan_v1_dense jais2 jetmoe llama minicpm3 minimax_m2 ministral
ministral3 mistral mixtral modernbert-decoder nanochat nemotron olmo olmo2 olmo3 olmoe opt persimmon phi phi3 phimoe
qwen2 qwen2_moe qwen3 qwen3_moe seed_oss smollm3 stablelm starcoder2 vaultgemma xglm
"""
_PADDED = "bamba bloom gpt_neo granitemoehybrid jamba lfm2 mamba2 mpt olmo_hybrid qwen3_next"
_ALONE = "falcon_mamba llama4_text mamba"

TESTED: dict[str, Fit] = {
    **dict.fromkeys(_PACKED.split(), Fit("packed")),
    **dict.fromkeys(_PADDED.split(), Fit("padded")),
    **dict.fromkeys(_ALONE.split(), Fit("alone")),
}
UNKNOWN = Fit("alone", slots=False)  # until it is measured
