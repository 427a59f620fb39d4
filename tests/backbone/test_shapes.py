from __future__ import annotations

import pytest

from memfold.backbone.shapes import SHAPES

# as their publisher counts them
PARAMETERS = {
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_the_parameters_of_the_published_model_and_no_weights(name: str) -> None:
    model = SHAPES[name].without_weights()
    assert {weight.device.type for weight in model.parameters()} == {"meta"}
    assert sum(weight.numel() for weight in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", SHAPES)
def test_a_reduced_shape_is_of_the_same_architecture(name: str) -> None:
    shape, small = SHAPES[name], SHAPES[name].reduced()
    assert small.heads / small.key_heads == shape.heads / shape.key_heads
    assert (small.tied, small.layers, small.vocabulary) == (shape.tied, 2, 512)
    names = {weight[0] for weight in small.without_weights().named_parameters()}
    assert names < {weight[0] for weight in shape.without_weights().named_parameters()}
