"""How many operations a forward pass takes: what counting alone predicts for a ratio of times.

Two for each weight and position in the matrices, four for each pair of positions and unit of width in attention (half
of the pairs where it is causal), and the logits of one position.  Left out: norms, activations, embeddings.
"""

from __future__ import annotations

from memfold.backbone.model import Backbone
from memfold.core.footprint import Footprint


def prefill(backbone: Backbone, positions: int) -> float:
    """Operations from the embeddings of one sequence to the logits of its last position."""
    return positions * _linear(backbone) + _attention(backbone, positions) + _logits(backbone)


def encoding(backbone: Backbone, footprint: Footprint) -> float:
    """Operations that make the slots of a document by the model itself: its passes, and a projection for each slot."""
    passes = footprint.passes
    attention = 0.0 if passes is None else passes.count * _attention(backbone, passes.tokens, passes.causal)
    return footprint.encoded * _linear(backbone) + attention + footprint.slots * 2 * backbone.hidden_size**2


def _linear(backbone: Backbone) -> float:
    """For each position, in all layers: every matrix of the blocks."""
    embedding = backbone.model.get_input_embeddings().weight
    matrices = [weight for weight in backbone.model.base_model.parameters() if weight.ndim == 2]
    return float(2 * sum(weight.numel() for weight in matrices if weight is not embedding))


def _attention(backbone: Backbone, positions: int, causal: bool = True) -> float:
    config = backbone.model.config.get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * size
    pairs = positions * (positions + 1) / 2 if causal else positions**2
    return float(config.num_hidden_layers * 4 * width * pairs)


def _logits(backbone: Backbone) -> float:
    return float(2 * backbone.hidden_size * backbone.model.config.get_text_config().vocab_size)
