"""Architectures of published models, so that planning and dry runs need neither weights nor a network.

The values are those of the public configurations of the models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Qwen2Config


@dataclass(frozen=True)
class Shape:
    """The architecture of a Qwen2 model.

    `heads` query heads share `key_heads` key/value heads, all of size `head_size`.  `tied` is set if the input
    embeddings are also the output embeddings.
    """

    layers: int
    hidden: int
    heads: int
    key_heads: int
    feedforward: int
    vocabulary: int
    tied: bool = False
    window: int = 131072
    head_size: int = 128

    def config(self) -> Qwen2Config:
        """Return the configuration for `transformers`."""
        from transformers import Qwen2Config

        return Qwen2Config(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_heads,
            intermediate_size=self.feedforward,
            max_position_embeddings=self.window,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            tie_word_embeddings=self.tied,
            use_sliding_window=False,
        )

    def without_weights(self) -> PreTrainedModel:
        """Return the model on the meta device: its parameters have names and shapes, but no values."""
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(self.config())
        return model

    def reduced(self, layers: int = 2, vocabulary: int = 512, head_size: int = 16) -> Shape:
        """Return a small variant for quick runs, with as many query heads per key/value head and the same `tied`."""
        heads = self.heads // self.key_heads
        hidden = heads * head_size
        feedforward = -(-hidden * self.feedforward // self.hidden // 32) * 32
        return replace(
            self,
            layers=layers,
            hidden=hidden,
            heads=heads,
            key_heads=1,
            feedforward=feedforward,
            vocabulary=vocabulary,
            window=4096,
            head_size=head_size,
        )


SHAPES = {
    "qwen2.5-0.5b": Shape(24, 896, 14, 2, 4864, 151936, tied=True, window=32768, head_size=64),
    "qwen2.5-3b": Shape(36, 2048, 16, 2, 11008, 151936, tied=True, window=32768),
    "qwen2.5-7b": Shape(28, 3584, 28, 4, 18944, 152064),
    "qwen2.5-14b": Shape(48, 5120, 40, 8, 13824, 152064),
    "qwen2.5-32b": Shape(64, 5120, 40, 8, 27648, 152064),
}
